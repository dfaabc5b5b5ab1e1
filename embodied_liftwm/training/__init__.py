"""Training: one trainer for every model.

    rollout.py      a batch of windows through a model: everything the terms read
    trainer.py      the loop: objective, optimiser, schedule, logs
    checkpoint.py   run folders and weights on disk, whole or not at all; `load_model`
    logs.py         metrics.csv and TensorBoard
"""
