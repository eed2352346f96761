"""Training of base models and of their class-agnostic alignment (PyTorch)."""
