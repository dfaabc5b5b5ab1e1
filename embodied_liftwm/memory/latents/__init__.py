"""Latent tokens in the world frame, written and read without a pixel in between (Mirage, arXiv:2606.09828)."""
