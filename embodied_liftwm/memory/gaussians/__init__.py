"""3D Gaussians, the primitives of `memory=gaussians`: their rasterizer and its backends, and PLY files."""

from embodied_liftwm.memory.gaussians.ply import PlyGaussians, read_ply, write_ply
from embodied_liftwm.memory.gaussians.rasterizer.rasterize import Rasterization, choose_backend, rasterize

__all__ = ["PlyGaussians", "Rasterization", "choose_backend", "rasterize", "read_ply", "write_ply"]
