"""World models: everything between an observation and a belief, all satisfying `protocols.WorldModel`.

base.py          what all models share: ego state, imagine, predict, surprise
liftwm.py        LiftWM: an encoder, a memory (`embodied_liftwm.memory`) and a decoder
build.py         config and dataset shapes -> model; the one place where a memory has a name
encoder.py       a frame becomes depth, opacity and latents on a grid of cells (depth_belief.py, motion.py)
decoders/        what was read becomes an image; holes are filled, and known to be filled
layers/          residual blocks, ray channels, epipolar attention
dynamics.py      the ego camera moves by what was done; reward and continuation
summary.py       what planners and policies are told of a map
generation.py    a step of closed-loop generation
gate.py          what is refused before a model begins
baselines/       models without a 3D state: a GRU, and raw frames read by attention along rays
"""
