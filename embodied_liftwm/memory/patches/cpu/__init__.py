"""Patch maps on a CPU without gradients: compiled kernels, shared among threads."""
