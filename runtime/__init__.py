"""What runs on the box beside the camera: no torch, no timm, no onnx."""
