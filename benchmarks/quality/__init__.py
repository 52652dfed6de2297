"""How much quantization costs, beside other tools: the benchmark of `docs/quality.md`."""
