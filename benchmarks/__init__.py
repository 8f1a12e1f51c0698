"""Paired comparisons with stock Keras and with PyTorch; each program writes its table to `benchmarks/results/`."""
