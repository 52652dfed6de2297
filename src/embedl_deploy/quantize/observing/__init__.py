"""Ranges of tensors: one class per observer."""
