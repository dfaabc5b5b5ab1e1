"""Collecting episodes into a dataset folder.

collect.py     a dataset from settings: which episodes are missing, and who records them; `shown.py` with a progress bar
workers.py     what a process does: record the episodes of a shard, write them, pack them
recording.py   one episode of any environment under any policy
acting.py      who acts: random actions, or a policy of yours; `explorers.py` are scripted
"""

from liftwm_agents.collection.collect import CollectProgress, collect

__all__ = ["CollectProgress", "collect"]
