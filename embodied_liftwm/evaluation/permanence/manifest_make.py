"""Makes and checks manifests: `python -m embodied_liftwm.evaluation.permanence.manifest make|check [TASK ...]`.

`make` drives the tour of one seed after another, and the scripted oracle's way after it, until so many episodes are kept;
seeds that memory cannot solve, that are solved where they start, or that the oracle itself fails, are listed as removed.
`check` drives every tour again and compares.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

import embodied_liftwm
from embodied_liftwm.config import EVAL_SEED_OFFSET, EnvOptions
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.navigation.guided import Guide, task_id
from embodied_liftwm.evaluation.permanence.manifest import (
    FIRST_SEED,
    FOLDER,
    SUMS,
    Frozen,
    Manifest,
    Removed,
    file_name,
    known_tasks,
    load_manifest,
    read_sums,
)
from embodied_liftwm.evaluation.progress import progress
from embodied_liftwm.files import write_text

EPISODES = 100
"""Kept in each manifest, unless asked otherwise."""
MOST_TRIED = 3
"""Times as many seeds are tried before the task is given up."""


def make_manifest(task: str, options: EnvOptions, episodes: int = EPISODES, first_seed: int = FIRST_SEED) -> Manifest:
    """Drive tours from `first_seed` on until `episodes` are kept.

    Raises:
        UserError: no such task, or too few of its scenes test memory.
    """
    guide, kept, removed = Guide(task, options), list[Frozen](), list[Removed]()
    with progress(f"episodes of {task}", episodes) as advance:
        for seed in range(first_seed, first_seed + MOST_TRIED * episodes):
            if len(kept) == episodes:
                break
            guided = guide.record(seed)
            if guided.removed:
                removed.append(Removed(seed, guided.removed))
                continue
            kept.append(Frozen(seed, guided.fingerprint()))
            advance(1)
    guide.close()
    if len(kept) < episodes:
        raise UserError(f"{task}: only {len(kept)} of {MOST_TRIED * episodes} seeds test memory, {episodes} were asked for")
    return Manifest(task_id(task), options, first_seed, _versions(), tuple(kept), tuple(removed))


def write_manifest(manifest: Manifest, folder: Path = FOLDER) -> Path:
    """Write it, and its line of SHA256SUMS; each file whole or not at all."""
    path = folder / file_name(manifest.task)
    write_text(path, manifest.text())
    sums = read_sums(folder) | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    write_text(folder / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
    return path


def check_manifest(manifest: Manifest) -> None:
    """Drive every tour again. Raises UserError for the first that is not as frozen, or no longer tests memory."""
    guide = Guide(manifest.task, manifest.options)
    with progress(f"episodes of {manifest.task}", len(manifest.episodes)) as advance:
        for frozen in manifest.episodes:
            guided = guide.record(frozen.seed)
            manifest.verify(guided)
            if guided.removed:
                raise UserError(f"{manifest.task}, seed {frozen.seed}: {guided.removed}")
            advance(1)
    guide.close()


def _versions() -> dict[str, str]:
    names = ("numpy", "mujoco")
    return {"embodied_liftwm": embodied_liftwm.__version__} | {name: importlib.metadata.version(name) for name in names}


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    asked = _arguments().parse_args(words)
    folder = Path(asked.out)
    try:
        for task in asked.tasks or known_tasks(folder):
            if asked.what == "make":
                made = make_manifest(task, EnvOptions(image_size=asked.image_size), asked.episodes, asked.first_seed)
                path, counted = write_manifest(made, folder), len(made.episodes)
            else:
                made = load_manifest(task, folder)
                check_manifest(made)
                path, counted = folder / file_name(task), len(made.episodes)
            removed = ", ".join(f"{count} {reason}" for reason, count in made.reasons.items()) or "none"
            print(f"{path}: {counted} episodes; removed: {removed}")
    except UserError as error:
        print(f"manifest: {error}", file=sys.stderr)
        return 2
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m embodied_liftwm.evaluation.permanence.manifest", description=__doc__)
    parser.add_argument("what", choices=("make", "check"))
    parser.add_argument("tasks", nargs="*", help="such as Revisit-S; check: all that there are by default")
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"to keep ({EPISODES})")
    parser.add_argument("--first-seed", type=_seed, default=FIRST_SEED, help="an evaluation seed; the benchmark's by default")
    parser.add_argument("--image-size", type=int, default=EnvOptions().image_size, help="pixels")
    parser.add_argument("--out", default=str(FOLDER), help="folder; that of the package by default")
    return parser


def _seed(text: str) -> int:
    seed = int(text)
    if not EVAL_SEED_OFFSET <= seed < 2 * EVAL_SEED_OFFSET:
        raise argparse.ArgumentTypeError(f"{seed}: evaluation seeds are in [{EVAL_SEED_OFFSET}, {2 * EVAL_SEED_OFFSET})")
    return seed
