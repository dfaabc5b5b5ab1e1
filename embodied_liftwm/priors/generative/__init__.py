"""Generative and optimised teachers: Zero-1-to-3, MVDream, 3D Gaussian Splatting."""
