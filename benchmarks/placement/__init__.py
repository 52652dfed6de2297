"""Which layers are worth quantizing, beside other tools: the benchmark of `docs/placement.md`."""
