"""What a world model keeps: how a frame is written into it, how a camera reads it, a folder each.

contract.py   what every memory does, what it is given and gives: read this first; a folder's memory.py is the object
patches/      a fixed budget of relief patches, each of texels with colour, latents and evidence: the memory of `base`
    map.py            the tensors of the state
    rules.py          the numbers by which torch and the kernels write and read
    types.py          what passes between the stages
    write.py          a frame is taken into what is in view, and allocates patches for what is new;
    frame.py, integrate.py, look_weights.py, hidden.py    its surfaces, who meets it, what a look counts, what it hides
    coarsen.py        a full budget loses detail, never places
    read.py           seen from a camera: splatted with a depth test
    cpu/              the same without gradients on a CPU, compiled, a file a stage
latents/      latent tokens in the world frame, written and read without a pixel in between
    read.py           anchored latents seen from a camera
    cache.py          what all caches share; append.py keeps everything, bounded.py a budget of bytes
    tokens.py, compare.py, movers.py, thin.py     of bounded.py: what is kept, merged or doubted, found elsewhere, evicted
gaussians/    a fixed budget of 3D Gaussians
    map.py, lift.py, merge.py, coarsen.py     the state; a frame's primitives; how they meet it; a full budget
    rasterizer/       `rasterize` and its backends; ply.py, files of Gaussians
cloud/        an explicit RGB point cloud, which grows with every frame: cloud.py, render.py
frames/       frames as they were: context.py keeps all, keyframes.py and recent.py the few that matching needs (buffer.py)
movers.py     points that move; moving.py puts them beside a memory of what stands still
pixels.py     what memories share that are read pixel by pixel
slots.py, growing.py      what memories of a fixed number of slots, and those that grow, share
"""
