"""The persistent state: what is kept, how a frame is written into it, how a camera reads it, all at a fixed budget.

    patch_map.py      the tensors of the state: a fixed budget of relief patches, each of texels with colour, latents, evidence
    patch_frame.py    a frame as a patch map takes it: surfaces, normals, certainty
    patch_integrate.py  texels meet a frame: update what is seen again, forget what is gone, fill what is empty
    patch_write.py    writes a frame: integrates it into what is in view, allocates patches for what is new
    patch_read.py     patches seen from a camera: splatted with a depth test
    patch_coarsen.py  a full budget loses detail, never places
    patch_backend.py  when kernels do this without gradients: patch_*_compiled and patch_*_kernels
    latent_read.py    latent points seen from a camera: projected, depth-tested, splatted on the latent grid
    latent_cache.py   latent tokens in the world frame, written and read without a pixel in between; latent_cache_append and
                      latent_cache_bounded say what is kept, and latent_cache_{tokens,compare,movers,thin} how
    keyframes.py      a short buffer of recent frames, for stereo

The same with plain Gaussians, to compare with:

    gaussian_map.py   a fixed budget of Gaussian primitives with colour, latents and evidence
    lift.py           a frame's depth and latents become primitives in the world frame
    fuse.py           new primitives meet old ones: associate, merge, refute
    coarsen.py        a full budget loses detail, never places

And with what pixels were, which grows with every frame (`growing.py`):

    rgb_cloud.py      an explicit point cloud of all pixels, a point a voxel
    rgb_cloud_render.py  seen from a camera: a z-buffer and the mean of what lies on its surface
    rgb_cloud_kernels.py  both, compiled
    context_frames.py  raw frames and their poses, and which of them show what a camera looks at
"""
