"""Measurements: accuracy beside the paper's figures, latency, and the demo's report."""
