"""Rewrites into the operations that TensorRT runs well, one topic per file."""
