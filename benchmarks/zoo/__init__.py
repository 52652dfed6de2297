"""The zoo: every model goes in, and a table tells what came out: `python -m benchmarks.zoo`."""
