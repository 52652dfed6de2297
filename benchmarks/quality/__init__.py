"""How much quantization costs, beside other tools: the benchmark behind `docs/quality.md`."""
