"""Making manifests: tours are driven seed after seed, and what tests memory is frozen; and driving them again to compare.

`make` drives the tour of one seed after another, and the scripted oracle's way after it, until so many episodes are kept; seeds
that memory cannot solve, that are solved where they start, or that the oracle itself fails, are listed as removed. `check`
drives every tour again and compares.
"""

from __future__ import annotations

import importlib.metadata
from contextlib import suppress

import embodied_liftwm
from embodied_liftwm.config import EVAL_SEED_OFFSET, EnvOptions
from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.permanence.manifest import EVERYTHING, Frozen, Manifest, Removed, Tour, guide_of
from embodied_liftwm.evaluation.progress import progress

FIRST_SEED: int = EVAL_SEED_OFFSET + 2**25
"""Seeds of the benchmark begin here: beyond those of datasets and of navigation, and nothing is tuned on them."""
MOST_TRIED = 3
"""Times as many seeds are tried before the task is given up."""


def make_manifest(
    task: str, options: EnvOptions, episodes: int, first_seed: int = FIRST_SEED, tour: Tour | None = None
) -> Manifest:
    """Drive tours from `first_seed` on until `episodes` are kept.

    Args:
        task: of ours, or the name of anybody's environment.
        options: of the environment.
        episodes: how many.
        first_seed: seed of the first that is tried.
        tour: of an environment that is none of ours.

    Raises:
        UserError: no such task, one that breaks its contract, or too few of its scenes test memory.
    """
    source, tour = find_env(task), tour or Tour()
    env = source.gym_id if source.ours else task
    guide, kept, removed, known = guide_of(env, options, tour), list[Frozen](), list[Removed](), set(EVERYTHING)
    try:
        source.hold_to_contract(guide.env, first_seed)
        with progress(f"episodes of {task}", episodes) as advance:
            for seed in range(first_seed, first_seed + MOST_TRIED * episodes):
                if len(kept) == episodes:
                    break
                guided = guide.record(seed)
                if guided.removed:
                    removed.append(Removed(seed, guided.removed))
                    continue
                kept.append(Frozen(seed, guided.fingerprint()))
                known &= known if source.ours else set(guided.known)
                advance(1)
    finally:
        guide.close()
    if len(kept) < episodes:
        raise UserError(f"{task}: only {len(kept)} of {MOST_TRIED * episodes} seeds test memory, {episodes} were asked for")
    listed = tuple(name for name in EVERYTHING if name in known)
    return Manifest(env, options, first_seed, _versions(task), tuple(kept), tuple(removed), tour, listed)


def check_manifest(manifest: Manifest) -> None:
    """Drive every tour again. Raises UserError for the first that is not as frozen, or no longer tests memory."""
    guide = manifest.guide()
    with progress(f"episodes of {manifest.task}", len(manifest.episodes)) as advance:
        for frozen in manifest.episodes:
            guided = guide.record(frozen.seed)
            manifest.verify(guided)
            if guided.removed:
                raise UserError(f"{manifest.task}, seed {frozen.seed}: {guided.removed}")
            advance(1)
    guide.close()


def _versions(task: str) -> dict[str, str]:
    """Of what draws the scenes; of anybody's world its package, where it is one."""
    found = {"embodied_liftwm": embodied_liftwm.__version__}
    for name in ("numpy", "mujoco", task.partition(":")[0].partition(".")[0]):
        with suppress(importlib.metadata.PackageNotFoundError, ValueError):
            found[name] = importlib.metadata.version(name)
    return found
