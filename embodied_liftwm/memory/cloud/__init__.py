"""An explicit RGB point cloud of all pixels, a point a voxel: the baseline of latent memories."""
