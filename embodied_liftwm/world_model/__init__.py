"""World models: everything between an observation and a belief, all satisfying `protocols.WorldModel`.

layers.py      residual blocks, ray channels
encoder.py     a frame becomes depth, opacity and latents on a grid of cells
decoder.py     what was splatted becomes an image; holes are filled, and known to be filled
dynamics.py    the ego camera moves by what was done; reward and continuation
base.py        what all models share: ego state, imagine, predict, surprise
liftwm.py      LiftWM: a persistent map of Gaussian primitives
recurrent.py   the 2D baseline: a GRU with a pose-queried decoder
liftwm_cloud.py  LiftWM on an RGB point cloud: rendered, encoded again, decoded
context.py     raw frames as a memory, read by attention along rays (context_attention.py)
build.py       config and dataset shapes -> model
"""
