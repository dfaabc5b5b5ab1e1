"""What every importer gives, and what it may be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.importers.frames import Size


@dataclass(frozen=True)
class Settings:
    """What the user says of a source; `importers.FORMATS` lists which of it a format takes."""

    size: Size | None = None  # height and width of the frames; None as they are
    poses: str = ""  # name of the pose file, beside the frames
    intrinsics: tuple[float, float, float, float] | None = None  # fx fy cx cy of the frames as they are, pixels
    rgb: str = ""  # key of the frames, where there are several
    pose: str = ""  # key of the camera's poses


@dataclass(frozen=True)
class Source:
    """Episodes that can be read, in order."""

    info: dict[str, Any]  # for dataset.json: env, and what else all share
    clips: Sequence[tuple[str, Callable[[], Episode]]]  # a name, and what reads it; raises UserError
