"""Benchmarks against a hand-written PyTorch loop: `make bench`."""
