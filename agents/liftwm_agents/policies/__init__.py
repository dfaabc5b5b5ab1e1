"""Learned policies: what they see of a state, how stable-baselines3 trains them, and where they are kept."""
