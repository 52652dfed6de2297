"""Rounding errors made smaller without training."""
