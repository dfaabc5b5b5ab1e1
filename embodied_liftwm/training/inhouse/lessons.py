"""What each teacher of our own is trained on: its network, the frames of a step, and the loss of what it says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from embodied_liftwm.config import TeacherConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import read_json
from embodied_liftwm.priors.inhouse.depth import SHIPPED
from embodied_liftwm.priors.inhouse.depth_loss import Losses, losses, truths_of
from embodied_liftwm.priors.inhouse.depth_network import DepthConfig, DepthNetwork, Guess, load_network
from embodied_liftwm.priors.inhouse.views_loss import ViewsLosses, views_losses
from embodied_liftwm.priors.inhouse.views_network import Imagined, ViewsConfig, ViewsNetwork, load_views
from embodied_liftwm.training.inhouse.frames import Frames, TeacherReader
from embodied_liftwm.training.inhouse.pairs import PairReader, Pairs

VIEWS = 2
"""Views of each frame that `inhouse_views` learns from: the frame is looked at once for both."""


class DepthLesson:
    """`inhouse_depth`: single frames, their depth and normals."""

    columns: ClassVar[tuple[str, ...]] = Losses._fields

    def __init__(self, config: TeacherConfig, shape: DepthConfig | None = None) -> None:
        """Open the data of a config, and begin a network of a shape. Raises UserError as `TeacherTrainer` does."""
        self.config, self.reader = config, TeacherReader(config.data)
        shape = shape or DepthConfig(image_size=self.reader.image_size[0])
        _check_size(config, self.reader, shape.multiple)
        torch.manual_seed(config.seed)
        self.network = DepthNetwork(shape).to(config.device)

    def batch(self, step: int) -> Frames:
        """Frames from anywhere in the dataset."""
        return self.reader.batch(self.config.seed, step, self.config.frames)

    def inputs(self, batch: Frames) -> tuple[Tensor, ...]:
        """What the network is given of a batch."""
        return batch.rgb, batch.intrinsics

    def losses(self, guess: Guess, batch: Frames) -> Losses:
        """How far the network is from the truth of a batch."""
        return losses(guess, truths_of(batch.depth, batch.intrinsics), self.network.config.convention)


class ViewsLesson:
    """`inhouse_views`: frames, `VIEWS` views of each, and their depth. It begins as what `inhouse_depth` knows."""

    columns: ClassVar[tuple[str, ...]] = ViewsLosses._fields

    def __init__(self, config: TeacherConfig, shape: ViewsConfig | None = None) -> None:
        """Open the data of a config, and begin a network of a shape. Raises UserError as `TeacherTrainer` does."""
        self.config, self.reader = config, PairReader(config.data)
        known = load_network(SHIPPED)
        source = DepthConfig(self.reader.image_size[0], known.config.stem, known.config.widths, "metric")
        shape = shape or ViewsConfig(source=source)
        _check_size(config, self.reader, shape.multiple)
        torch.manual_seed(config.seed)
        self.network = ViewsNetwork(shape).to(config.device)
        if (shape.source.stem, shape.source.widths) == (known.config.stem, known.config.widths):
            self.network.source.load_state_dict(known.state_dict())

    def batch(self, step: int) -> Pairs:
        """Frames from anywhere in the dataset, each with its views."""
        return self.reader.pairs(self.config.seed, step, self.config.frames, VIEWS)

    def inputs(self, batch: Pairs) -> tuple[Tensor, ...]:
        """What the network is given of a batch."""
        return batch.rgb, batch.intrinsics, batch.frame_from_view

    def losses(self, imagined: Imagined, batch: Pairs) -> ViewsLosses:
        """How far the network is from the truth of a batch."""
        return views_losses(imagined, batch.views, batch.depth)


LESSONS: dict[str, Callable[[TeacherConfig, Any], Any]] = {"inhouse_depth": DepthLesson, "inhouse_views": ViewsLesson}
"""Every teacher of our own by its name in `TeacherConfig.name`."""


def load_teacher(folder: Path) -> DepthNetwork | ViewsNetwork:
    """A trained teacher of any kind.

    Raises:
        UserError: a file is missing or damaged, or the weights are of another architecture.
    """
    try:
        has_source = "source" in read_json(folder / "model.json")["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'model.json'} does not describe a teacher of ours: {error}") from None
    return load_views(folder) if has_source else load_network(folder)


def _check_size(config: TeacherConfig, reader: TeacherReader, multiple: int) -> None:
    height, width = reader.image_size
    if height % multiple or width % multiple:
        raise UserError(f"data={config.data}: frames are {height} x {width}, expected multiples of {multiple}")
