"""The rasterizer of 3D Gaussians: one call, three backends."""

from embodied_liftwm.memory.gaussians.rasterizer.rasterize import Rasterization, choose_backend, rasterize

__all__ = ["Rasterization", "choose_backend", "rasterize"]
