"""Priors: models that have seen the world before, as teachers.

A prior takes the frames and believed poses of an episode and returns pseudo-observations with confidence, each in a stated
convention. They are computed once over a dataset, cached beside it, and enter the ELBO as observations whose likelihood is as
invariant as the convention says. Where each thing lives:

    contract.py         Clip, PseudoObservations and their conventions, Prior, PriorCard, PriorOptions
    registry.py         every prior by its name: what it gives, its licence, what it lacks on this machine
    cache.py            pseudo-observations on disk, keyed by model and weights
    alignment.py        the closed-form scale and shift of scale-free depth and affine-invariant inverse depth
    one module a prior  depth_anything, dust3r, mast3r, zero123, mvdream, gaussian_splatting: other people's models;
                        house_depth: ours; mvs, disk: geometry of the agent's own video
"""
