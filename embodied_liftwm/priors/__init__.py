"""Priors: models that have seen the world before, as teachers.

A prior takes the frames and believed poses of an episode and returns pseudo-observations with confidence, each in a stated
convention. They are computed once over a dataset, cached beside it, and enter the ELBO as observations whose likelihood is as
invariant as the convention says. Where each thing lives:

    contract.py         Clip, PseudoObservations and their conventions, Prior, PriorCard, PriorOptions
    registry.py         every prior by its name; priors of one's own
    cache.py, packing.py    pseudo-observations on disk, keyed by model and weights
    alignment.py, cells.py  the closed-form scale and shift that a convention leaves open; maps brought to cells
    one module a prior  depth_anything, dust3r, mast3r, zero123, mvdream, gaussian_splatting: other people's models;
                        house_depth, house_views: ours; mvs, disk: geometry of the agent's own video
    hub.py              checkpoints of the Hugging Face libraries: found, named where missing, hashed; never downloaded
    orbit.py, diffusion.py, mvdream_unet.py     what view generators share: cameras about what a frame looks at, sampling
    pairs.py, stereo_models.py      what DUSt3R and MASt3R share: which pairs of frames are asked, how answers come back
    splat_fit.py, splat_scene.py    3D Gaussians fitted to an episode, or read from a file
    mvs_kernels.py, plane_fit.py    of mvs: compiled kernels; normals, and depth less noisy
    disk_features.py, triangulation.py      of disk: its weights and matches; points from them
    house_network.py, house_loss.py         of house_depth; the training of ours is `training/house_training.py`
    house_views_network.py, house_views_loss.py, beside.py      of house_views; cameras where a frame sees room
    weights/            of ours, each with its card
"""
