"""How much of the signal quantization costs."""
