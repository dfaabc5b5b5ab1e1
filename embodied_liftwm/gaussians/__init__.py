"""The state's primitives: 3D Gaussians, their rasterizer and its backends, and PLY files."""

from embodied_liftwm.gaussians.rasterize import Rasterization, choose_backend, rasterize

__all__ = ["Rasterization", "choose_backend", "rasterize"]
