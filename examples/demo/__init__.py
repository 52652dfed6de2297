"""Four trained models as checked INT8 files: `python -m examples.demo`, or `make demo`."""
