"""The persistent state: what is kept, how a frame is lifted into it, and how it is fused to a fixed budget.

gaussian_map.py   the tensors of the state: a fixed budget of Gaussian primitives with colour, latents and evidence
keyframes.py      a short buffer of recent frames, for stereo
lift.py           a frame's depth and latents become primitives in the world frame
fuse.py           new primitives meet old ones: associate, merge, refute
coarsen.py        a full budget loses detail, never places
latent_read.py    latent points seen from a camera: projected, depth-tested, splatted on the latent grid
"""
