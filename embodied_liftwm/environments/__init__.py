"""Environments by name, ours and anyone's, all of one form (`liftwm_envs.contract`), with a tour where a task needs one.

env_source.py    what a name means, and how it is built
users_policy.py  policies of the user's, which act or show tours
"""

from __future__ import annotations

from embodied_liftwm.environments.env_source import EnvSource, find_env, guide_of, use_renderer, versions

__all__ = ["EnvSource", "find_env", "guide_of", "use_renderer", "versions"]
