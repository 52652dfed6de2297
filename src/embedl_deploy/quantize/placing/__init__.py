"""Where quantizers go."""
