"""Look at a whole dataset: what is in it, and whether it is sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embodied_liftwm.data.episode import Episode, pose_problem
from embodied_liftwm.data.storage import data_files, episode_indices, group_name, open_file, read_episode, read_info, scan
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
    has_truth: bool
    success_share: float | None  # of the episodes that say; None where none does
    mean_return: float
    renderers: tuple[str, ...]  # what drew the frames


def summarize(path: str | Path) -> DatasetSummary:
    """Summarize a dataset, without decoding frames.

    Raises:
        UserError: no dataset there, no episode in it, or a truncated or foreign file, named.
    """
    folder = Path(path)
    info, files = read_info(folder), scan(folder)
    if not files:
        raise UserError(f"the dataset at {path} holds no episode yet: run `liftwm collect out={path}`")
    shapes, metas, truths = [], [], []
    for index, file_path in files.items():
        with open_file(file_path) as file:
            group = file[group_name(index)]
            shapes.append(group["rgb"].shape)
            metas.append(json.loads(group["meta"][()]))
            truths.append("truth" in group)
    lengths = [shape[0] - 1 for shape in shapes]
    successes = [meta["success"] for meta in metas if meta.get("success") is not None]
    return DatasetSummary(
        info=info,
        episodes=len(files),
        frames=sum(shape[0] for shape in shapes),
        bytes=sum(file_path.stat().st_size for file_path in data_files(folder)),
        image_size=(shapes[0][1], shapes[0][2]),
        lengths=(min(lengths), float(np.median(lengths)), max(lengths)),
        has_truth=all(truths),
        success_share=float(np.mean(successes)) if successes else None,
        mean_return=float(np.mean([meta.get("return", np.nan) for meta in metas])),
        renderers=tuple(sorted({meta["renderer"] for meta in metas if meta.get("renderer")})),
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
    read_info(folder)
    problems: list[str] = []
    files: dict[int, Path] = {}
    for file_path in data_files(folder):
        try:
            files |= dict.fromkeys(episode_indices(file_path), file_path)
        except UserError as error:
            problems.append(str(error))
    if not files and not problems:
        problems.append(f"{path} holds no episode")
    sizes: set[tuple[Any, ...]] = set()
    for done, (index, file_path) in enumerate(sorted(files.items()), 1):
        try:
            episode = read_episode(file_path, index)
        except UserError as error:
            problems.append(str(error))
        else:
            problems += [f"{file_path}: {group_name(index)}: {problem}" for problem in episode_problems(episode)]
            sizes.add((episode.image_size, episode.action.shape[1], episode.goal.shape[1]))
        on_episode(done, len(files))
    if len(sizes) > 1:
        problems.append(f"{path}: episodes differ in image, action or goal size: {sorted(sizes)}")
    return problems


def episode_problems(episode: Episode) -> Iterator[str]:
    """What is wrong with an episode whose shapes and dtypes are right."""
    for name in ("action", "reward", "intrinsics", "goal"):
        if not np.isfinite(getattr(episode, name)).all():
            yield f"{name} holds NaN or infinity"
    if problem := pose_problem(episode.world_from_camera):
        yield f"world_from_camera {problem}"
    k, (height, width) = episode.intrinsics, episode.image_size
    if not (k[0, 0] > 0 and k[1, 1] > 0 and 0 < k[0, 2] < width and 0 < k[1, 2] < height and k[2].tolist() == [0, 0, 1]):
        yield f"intrinsics {k.tolist()} are not those of a {height} x {width} image"
    if (episode.terminated[:-1] | episode.truncated[:-1]).any():
        yield "goes on after it has ended"
    if episode.rgb.max() == episode.rgb.min():
        yield "every pixel of every frame is the same"
    if episode.truth is not None:
        yield from _truth_problems(episode)


def _truth_problems(episode: Episode) -> Iterator[str]:
    truth = episode.truth
    assert truth is not None
    if problem := pose_problem(truth.world_from_camera):
        yield f"truth/world_from_camera {problem}"
    if not np.isfinite(truth.depth).all() or (truth.depth < 0).any():
        yield "truth/depth holds NaN, infinity or negative metres"
    if not (truth.depth > 0).any():
        yield "truth/depth is 0 everywhere"
    if not np.isfinite(truth.object_pose).all():
        yield "truth/object_pose holds NaN or infinity"
    unknown = set(np.unique(truth.segmentation).tolist()) - {0} - set(truth.object_id.tolist())
    if unknown:
        yield f"truth/segmentation shows objects {sorted(unknown)} that truth/object_id does not list"
    for column, number in enumerate(truth.object_id):
        if not np.array_equal((truth.segmentation == number).sum((1, 2)), truth.visible_pixels[:, column]):
            yield f"truth/visible_pixels of object {number} does not count its pixels in truth/segmentation"
