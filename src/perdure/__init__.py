"""Perdure: lifelong learning. One network learns task after task and keeps them."""

__version__ = "0.1.0"
