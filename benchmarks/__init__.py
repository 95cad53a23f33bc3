"""The figures of lowgrad, each with the bound that it should keep: `python -m benchmarks.run`."""
