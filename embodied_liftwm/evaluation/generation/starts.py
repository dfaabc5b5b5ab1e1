"""Where a generated video begins and where its camera goes, from the words of `liftwm generate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from embodied_liftwm.config import GenerateConfig, size_word
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.importers.frames import fit, pinhole
from embodied_liftwm.data.pictures import read_picture
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.generation.camera_paths import SUFFIXES, CameraPath, named_path, read_path
from embodied_liftwm.evaluation.generation.tours import Tour, first_clear_tour, recorded_tour
from embodied_liftwm.evaluation.views.true_views import can_draw
from embodied_liftwm.protocols import frame_size_of

PICTURES = (".png", ".jpg", ".jpeg")


def path_of(config: GenerateConfig) -> CameraPath | None:
    """The path from any start; None for the episode's own."""
    if config.path == "recorded":
        if not config.data:
            raise UserError("path=recorded: needs data=DATASET, whose episode the camera follows")
        return None
    if config.path.endswith(SUFFIXES) or "/" in config.path:
        stored = read_path(config.path)
        return stored.starting_at(np.eye(4), config.metres_per_unit)
    return named_path(config.path, config.steps)


def check_start(config: GenerateConfig) -> None:
    """Raise UserError unless there is one frame to begin with: a picture, or of a dataset."""
    if bool(config.first_frame) == bool(config.data):
        both = " and not both" if config.data else ""
        raise UserError(f"give first_frame=PICTURE or data=DATASET{both}: a video begins with a frame")
    if config.first_frame and not config.first_frame.lower().endswith(PICTURES):
        raise UserError(f"first_frame={config.first_frame}: expected a picture {' | '.join(PICTURES)}")
    if config.first_frame and not Path(config.first_frame).is_file():
        raise UserError(f"first_frame={config.first_frame}: no such picture")


def tours_of(config: GenerateConfig, console: Console, model: CheckedModel, path: CameraPath | None) -> tuple[list[Tour], int]:
    """What is generated, and of how many episodes the path did not fit into the room."""
    if config.first_frame:
        return [_picture_tour(config, console, model, path)], 0
    reader = EvaluationReader(config.data)
    if config.episode >= len(reader):
        raise UserError(f"episode={config.episode}: {config.data} holds {len(reader)}, counted from 0")
    last = min(len(reader), config.episode + config.episodes) if config.episodes else len(reader)
    found = [_episode_tour(config, reader, index, path) for index in range(config.episode, last)]
    tours = [tour for tour in found if tour is not None]
    if not tours:
        raise UserError(f"path={config.path}: would run into a wall or an object wherever it starts: take a shorter one")
    wanted, has = frame_size_of(model.model), tours[0].first.shape[:2]
    if wanted and wanted != has:
        theirs, its = ("x".join(map(str, size)) for size in (has, wanted))
        raise UserError(f"data={config.data} has images of {theirs}, model {config.model} is for {its}")
    return tours, len(found) - len(tours)


def _episode_tour(config: GenerateConfig, reader: EvaluationReader, index: int, path: CameraPath | None) -> Tour | None:
    """One episode's tour, with the truth where its world can be drawn again."""
    episode = reader[index]
    if config.frame >= len(episode.rgb):
        raise UserError(f"frame={config.frame}: episode {index} has frames 0 to {len(episode.rgb) - 1}")
    if path is None:
        return recorded_tour(episode, index, config.frame)
    if episode.truth is not None and episode.truth.has("world_from_camera") and can_draw(reader.info, episode):
        return first_clear_tour(reader.info, episode, index, path, config.frame)
    moved = path.starting_at(episode.world_from_camera[config.frame])
    return Tour(index, config.frame, moved, episode.rgb[config.frame], episode.intrinsics)


def _picture_tour(config: GenerateConfig, console: Console, model: CheckedModel, path: CameraPath | None) -> Tour:
    """A picture's tour: the camera stands level at the origin and looks along world x."""
    picture, wanted = Path(config.first_frame), frame_size_of(model.model)
    if config.sides and wanted and config.sides != wanted:
        raise UserError(f"size={config.size}: model {config.model} takes frames of {size_word(wanted)}, leave size= out")
    found = read_picture(picture)
    rgb = fit(found, wanted or config.sides)  # a model that does not say takes the picture as it is
    height, width = rgb.shape[:2]
    if (found.height, found.width) != (height, width):
        whose = "the model takes" if wanted else "size= asks for"
        took = f"cropped to its middle and resized to {height} x {width}, which {whose}"
        console.print(f"{picture}: {found.height} x {found.width}, {took}", soft_wrap=True, markup=False)
    focal = 0.5 * width / np.tan(0.5 * np.radians(config.fov_deg))
    start = np.eye(4)
    start[:3, :3] = [[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]  # right, down and ahead in a world with z up
    intrinsics = pinhole(focal, focal, width / 2, height / 2).astype(np.float32)
    assert path is not None, "a picture has no way of its own: `path_of` has asked for data="
    return Tour(0, 0, path.starting_at(start), rgb, intrinsics)
