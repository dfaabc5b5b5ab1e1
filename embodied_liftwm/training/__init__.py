"""Training: one trainer for every world model.

loop.py         the loop that all trainings share: steps, learning rate, logs, a clean stop
trainer.py      the trainer of world models: what a step learns from, resumption
learner.py      an optimiser step: micro-batches, gradients, their mean over processes, the update
rollout.py      a batch of windows through a model: everything the terms read
objective.py    the named terms of a training
batches.py      windows from the dataset to the device: who takes which
teachers.py, teacher_windows.py     what priors observed in a dataset, held against the terms; what of it a window takes
frozen_depth.py     an encoder with another model's depth
body.py         what the body does under an action, fitted before all else
prefetch.py     the next batches, prepared by a thread while the model computes
parallel.py     several processes under torchrun
networks.py     bfloat16 and torch.compile for image networks
checkpoint.py   run folders and weights on disk, whole or not at all; `load_model`
logs.py         metrics.csv and TensorBoard
inhouse/        the teachers of our own, which alone learn from truth, of their own scenes: their frames, pairs of frames,
                what each of them is trained on (lessons.py), and their trainer
"""
