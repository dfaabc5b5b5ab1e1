"""3D Gaussians as anyone may use them: `rasterize`, which every backend draws alike, and PLY files."""

from embodied_liftwm.memory.gaussians import PlyGaussians, Rasterization, choose_backend, rasterize, read_ply, write_ply

__all__ = ["PlyGaussians", "Rasterization", "choose_backend", "rasterize", "read_ply", "write_ply"]
