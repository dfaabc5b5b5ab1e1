"""Collecting: explorers and scripts that act, recorders, and the processes that fill a dataset folder."""

from liftwm_agents.collection.collect import CollectProgress, collect

__all__ = ["CollectProgress", "collect"]
