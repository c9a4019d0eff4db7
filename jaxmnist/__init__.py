"""The training pipeline of a paper's MNIST network, in JAX."""

__version__ = "0.1.0"
