"""From a checkpoint to one deployable file with everything fused in."""
