"""The rasterizer of 3D Gaussians: one call, three backends."""
