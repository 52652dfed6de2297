"""What TensorRT runs as one kernel, one topic per file."""
