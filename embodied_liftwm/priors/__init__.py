"""Priors: models that have seen the world before, as teachers.

A prior takes the frames and believed poses of an episode and returns pseudo-observations with confidence, each in a stated
convention. They are computed once over a dataset, cached beside it, and enter the ELBO as observations whose likelihood is as
invariant as the convention says. Where each thing lives:

    contract.py         Clip, PseudoObservations and their conventions, Prior, PriorCard, PriorOptions
    registry.py         every prior by its name; priors of one's own
    cache.py, packing.py    pseudo-observations on disk, keyed by model and weights
    alignment.py, cells.py  the closed-form scale and shift that a convention leaves open; maps brought to cells
    hub.py              checkpoints of the Hugging Face libraries: found, named where missing, hashed; never downloaded
    geometric/          depth_anything, dust3r, mast3r: other people's models; mvs, disk: geometry of the agent's own video
    generative/         zero123, mvdream: other people's models; gaussian_splatting: fitted to an episode, or read from a file
    inhouse/            depth, views: networks of ours, their losses; their training is `training/inhouse`
    weights/            of ours, each with its card
    beside.py           cameras beside the path, where a frame sees room
    corruption.py    teachers made worse on purpose
"""
