"""Look at a whole dataset: what is in it, and whether it is sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.storage import (
    INFO,
    data_files,
    episode_indices,
    group_name,
    how_to_collect,
    listed_episodes,
    read_episode,
    read_info,
    read_outline,
    scan,
)
from embodied_liftwm.errors import UserError


@dataclass(frozen=True)
class DatasetSummary:
    """What `liftwm data info` shows."""

    info: dict[str, Any]  # dataset.json
    episodes: int
    frames: int
    bytes: int  # of shards and pieces, compressed
    image_size: tuple[int, int]  # height, width, pixels
    lengths: tuple[int, float, int]  # actions per episode: least, median, most
    truth: tuple[str, ...]  # arrays of truth that every episode has
    success_share: float | None  # of the episodes that say; None where none does
    mean_return: float
    renderers: tuple[str, ...]  # what drew the frames
    checksums: int  # episodes that carry one; those of old carry none


def summarize(path: str | Path) -> DatasetSummary:
    """Summarize a dataset, without decoding frames.

    Raises:
        UserError: no dataset there, no episode in it, or a truncated or foreign file, named.
    """
    folder = Path(path)
    info, files = read_info(folder), scan(folder)
    if not files:
        raise UserError(f"the dataset at {path} holds no episode yet: run {how_to_collect(path)}")
    outlines = [read_outline(file_path, index) for index, file_path in files.items()]
    shapes, metas = [outline.shapes["rgb"] for outline in outlines], [outline.meta for outline in outlines]
    lengths = [shape[0] - 1 for shape in shapes]
    successes = [meta["success"] for meta in metas if isinstance(meta.get("success"), bool)]
    return DatasetSummary(
        info=info,
        episodes=len(files),
        frames=sum(shape[0] for shape in shapes),
        bytes=sum(file_path.stat().st_size for file_path in data_files(folder)),
        image_size=(shapes[0][1], shapes[0][2]),
        lengths=(min(lengths), float(np.median(lengths)), max(lengths)),
        truth=tuple(name for name in outlines[0].truth if all(name in outline.truth for outline in outlines)),
        success_share=float(np.mean(successes)) if successes else None,
        mean_return=float(np.mean([r if isinstance(r := meta.get("return"), int | float) else np.nan for meta in metas])),
        renderers=tuple(sorted({str(meta["renderer"]) for meta in metas if meta.get("renderer")})),
        checksums=sum(outline.has_checksum for outline in outlines),
    )


def check(path: str | Path, on_episode: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """Open every file and every episode, and list what is wrong, one line each; an empty list is a sound dataset.

    Args:
        path: dataset folder.
        on_episode: called with (done, total) after each episode.

    Raises:
        UserError: no dataset there.
    """
    folder = Path(path)
    listed = listed_episodes(read_info(folder))
    problems: list[str] = []
    files: dict[int, Path] = {}
    for file_path in data_files(folder):
        try:
            files |= dict.fromkeys(episode_indices(file_path), file_path)
        except UserError as error:
            problems.append(str(error))
    lost = sorted(listed - files.keys())
    problems += [f"{path}: {group_name(index)} is listed in {INFO} and in no sound file: collect again" for index in lost]
    if not files and not problems:
        problems.append(f"{path} holds no episode")
    sizes: set[tuple[Any, ...]] = set()
    for done, (index, file_path) in enumerate(sorted(files.items()), 1):
        try:
            episode = read_episode(file_path, index)
        except UserError as error:
            problems.append(str(error))
        else:
            problems += [f"{file_path}: {group_name(index)}: {oddity}" for oddity in oddities(episode)]
            truth = f"with truth of {', '.join(episode.truth_arrays())}" if episode.truth is not None else "without truth"
            sizes.add((episode.image_size, episode.action.shape[1], episode.goal.shape[1], truth))
        on_episode(done, len(files))
    if len(sizes) > 1:
        problems.append(f"{path}: episodes differ in image, action or goal size, or in having truth: {sorted(sizes)}")
    return problems


def oddities(episode: Episode) -> Iterator[str]:
    """What is odd about an episode that is sound: it can be read and learned from, but hardly is what was meant."""
    if episode.rgb.max() == episode.rgb.min():
        yield "rgb: every pixel of every frame is the same"
    truth = episode.truth
    if truth is None:
        return
    if truth.has("depth") and not (truth.depth > 0).any():
        yield "truth/depth: 0 everywhere"
    if not truth.has("segmentation"):
        return
    unknown = set(np.unique(truth.segmentation).tolist()) - {0} - set(truth.object_id.tolist())
    if unknown:
        yield f"truth/segmentation: shows objects {sorted(unknown)} that truth/object_id does not list"
    for column, number in enumerate(truth.object_id if truth.has("visible_pixels") else ()):
        if not np.array_equal((truth.segmentation == number).sum((1, 2)), truth.visible_pixels[:, column]):
            yield f"truth/visible_pixels: object {number} is not counted as truth/segmentation shows it"
