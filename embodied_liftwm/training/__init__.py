"""Training: one trainer for every world model.

trainer.py      the loop: resumption, logs
schedule.py     how far a training is, and its learning rate
learner.py      an optimiser step: micro-batches, gradients, their mean over processes, the update
rollout.py      a batch of windows through a model: everything the terms read
objective.py    the named terms of a training
batches.py      windows from the dataset to the device: who takes which
teachers.py, teacher_windows.py     what priors said of a dataset, held against the terms; what of it a window takes
prefetch.py     the next batches, prepared by a thread while the model computes
parallel.py     several processes under torchrun
networks.py     bfloat16 and torch.compile for image networks
checkpoint.py   run folders and weights on disk, whole or not at all; `load_model`
logs.py         metrics.csv and TensorBoard

The teachers of our own, `house_depth` and `house_views`, which alone learn from truth, of their own scenes:

house_data.py       their frames and depths, and nobody else's
house_pairs.py      frames of one episode that look the same way from two places
house_lessons.py    what each of them is shown, and what it is to get right: the losses are `priors.house_*loss`
house_training.py   the loop
"""
