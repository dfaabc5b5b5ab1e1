"""Learned policies.

readout.py, birdseye.py     what a policy sees of a world model's state: a map, a vector, the model's summary
features.py                 the same as observations of stable-baselines3; baselines.py: pixels, frame stack, recurrent
training_envs.py            real environments, and imagined ones (imagination.py)
start_pool.py               where their episodes start; action_table.py: what they choose among; env_processes.py
training.py, held_out.py    PPO, and how well it does meanwhile
policy_file.py, policy.py   on disk, and acting again
"""
