"""Collect a dataset: one process a shard, any of which may be killed at any moment.

Episode `i` depends on the settings and the seed `first_seed + i` alone, so the dataset is the same whatever the number of
workers, whichever engine runs them, and however often collection was interrupted and continued. An episode is on disk as soon
as it is finished; a kill costs the one in flight. Workers end when their parent is gone, and are replaced when they are killed.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from embodied_liftwm.config import CollectConfig
from embodied_liftwm.data.storage import FORMAT, INFO, list_episodes, read_info, scan, write_info
from embodied_liftwm.environments import EnvSource, find_env, versions
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import remove_partials
from embodied_liftwm.folder_lock import held_for_workers
from embodied_liftwm.workers import find_engine, run_tasks
from liftwm_agents.collection.workers import CollectShards, Report, Shard

SAME = ("env", "env_options", "steps", "policy", "split", "seed", "episodes_per_shard")
"""Settings that every episode of a dataset shares."""


@dataclass(frozen=True)
class CollectProgress:
    """How far a collection is."""

    episodes: int  # finished, those of earlier runs included
    total: int  # wanted
    frames: int  # recorded by this run, the episodes in flight included
    found: int  # episodes that were there when this run began


def collect(config: CollectConfig, on_progress: Callable[[CollectProgress], None] = lambda progress: None) -> CollectProgress:
    """Bring the dataset `config.out` to `config.episodes` episodes.

    Args:
        config: what to collect; a dataset that is there already is continued if its settings are the same.
        on_progress: called when frames or episodes were added.

    Returns:
        The final progress.

    Raises:
        UserError: unknown environment, other settings than the dataset's, a folder that another process holds or that cannot be
            written, a full disk, an environment without image or camera, workers that keep dying, or no Ray for engine=ray.
        RuntimeError: a bug in a worker, with its traceback.
    """
    source = find_env(config.env)
    source.check(config.env_options, config.policy)
    if (policy := source.policy_of(config.policy)) != config.policy:
        what = f"policy={config.policy} knows liftwm environments only"
        print(f"{what}: {config.env} is explored by policy={policy}, and this is what the dataset says", file=sys.stderr)
        config = dataclasses.replace(config, policy=policy)
    engine = find_engine(config.engine, config.workers, config.ray_address)
    folder = Path(config.out)
    with held_for_workers(folder):
        remove_partials(folder)
        found = scan(folder)
        _prepare_info(folder, _settings(config, source), continued=bool(found))
        progress = CollectProgress(sum(i < config.episodes for i in found), config.episodes, 0, len(found))
        on_progress(progress)
        there, unlisted = set(found), 0
        try:
            for report in run_tasks(CollectShards(config, source), plan(found, config), engine):
                progress = _add(progress, report)
                if report.episode is not None:
                    there.add(report.episode)
                    unlisted += 1
                if unlisted == config.episodes_per_shard:
                    list_episodes(folder, there)
                    unlisted = 0
                on_progress(progress)
        finally:  # however it ends; after a kill the next collection lists what it finds
            list_episodes(folder, there)
    return progress


def plan(found: dict[int, Path], config: CollectConfig) -> list[Shard]:
    """The shards that lack episodes or are not packed, each with the episodes it lacks."""
    shards = []
    for first in range(0, config.episodes, config.episodes_per_shard):
        indices = list(range(first, min(first + config.episodes_per_shard, config.episodes)))
        missing = [index for index in indices if index not in found]
        if missing or any(found[index].name.startswith("episode-") for index in indices):
            shards.append(Shard(first // config.episodes_per_shard, indices, missing))
    return shards


def _add(progress: CollectProgress, report: Report) -> CollectProgress:
    return dataclasses.replace(progress, episodes=progress.episodes + report.episodes, frames=progress.frames + report.frames)


def _settings(config: CollectConfig, source: EnvSource) -> dict[str, Any]:
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key in SAME}
    return settings | {"env_options": source.options(config.env_options)}


def _prepare_info(folder: Path, settings: dict[str, Any], continued: bool) -> None:
    """Write `dataset.json`, or hold what it says against this run."""
    info = {"format": FORMAT, "versions": versions(), **settings}
    if not continued:
        foreign = [path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name != INFO]
        if foreign and not (folder / INFO).exists():
            raise UserError(f"{folder} holds other files ({foreign[0]}): choose an empty or new folder with out=")
        write_info(folder, info)
        return
    stored = read_info(folder)
    for key in _flat(stored) | _flat(info):
        if key.split(".")[0] in SAME and (was := _flat(stored).get(key)) != (now := _flat(info).get(key)):
            _refuse(folder, key, was, now)
    changed = [f"{name} {old} -> {info['versions'].get(name)}" for name, old in stored.get("versions", {}).items()
               if info["versions"].get(name) != old]  # fmt: skip
    if changed:
        print(f"warning: {folder} was begun with other versions ({', '.join(changed)}): frames may differ", file=sys.stderr)


def _flat(info: dict[str, Any]) -> dict[str, Any]:
    nested = {f"{key}.{name}": value for key, group in info.items() if isinstance(group, dict) for name, value in group.items()}
    return {key: value for key, value in info.items() if not isinstance(value, dict)} | nested


def _refuse(folder: Path, key: str, stored: Any, wanted: Any) -> NoReturn:
    raise UserError(f"{folder} was collected with {key}={stored}, not {key}={wanted}: use the same, or choose another out=")
