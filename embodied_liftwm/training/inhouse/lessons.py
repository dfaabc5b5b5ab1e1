"""What is taught to each teacher of our own: its network, what a step shows it, what it is to get right, how it is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import read_json
from embodied_liftwm.priors.inhouse.depth import SHIPPED
from embodied_liftwm.priors.inhouse.depth_loss import Losses, losses, truths_of
from embodied_liftwm.priors.inhouse.depth_network import HouseConfig, HouseNetwork, describe, load_network
from embodied_liftwm.priors.inhouse.views_loss import ViewsLosses, views_losses
from embodied_liftwm.priors.inhouse.views_network import HouseViews, ViewsConfig, describe_views, load_views
from embodied_liftwm.training.inhouse.frames import Frames, TeacherReader
from embodied_liftwm.training.inhouse.pairs import PairReader, Pairs

VIEWS = 2
"""Views a frame that is shown to `house_views`: the frame is looked at once for both."""


class Found(NamedTuple):
    """What a step found."""

    loss: Tensor  # [] is minimised
    parts: dict[str, Tensor]  # [] each, by its column


class DepthLesson:
    """`house_depth`: single frames, their depth and normals."""

    columns: ClassVar[tuple[str, ...]] = Losses._fields

    def __init__(self, config: TrainConfig, shape: HouseConfig | None = None) -> None:
        """Open the data of a config, and begin a network of a shape. Raises UserError as `HouseTrainer` does."""
        self.config, self.reader = config, TeacherReader(config.data)
        shape = shape or HouseConfig(image_size=self.reader.image_size[0])
        _check_size(config, self.reader, shape.multiple)
        torch.manual_seed(config.seed)
        self.network = HouseNetwork(shape).to(config.device)

    def batch(self, step: int) -> Frames:
        """As many frames as a step's windows have context frames, but each from anywhere."""
        return self.reader.batch(self.config.seed, step, self.config.batch_size * self.config.context)

    def find(self, batch: Frames) -> Found:
        """How far the network is from the truth of a batch."""
        rgb, depth, intrinsics = batch
        with torch.autocast(rgb.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            guess = self.network(rgb, intrinsics)
        found = losses(guess, truths_of(depth, intrinsics), self.network.config.convention)
        return Found(found.total(), found._asdict())

    def describe(self) -> str:
        """The text of `model.json`."""
        return describe(self.network.config)


class ViewsLesson:
    """`house_views`: frames, `VIEWS` views of each, and their depth. What looks at them begins as what `house_depth` knows."""

    columns: ClassVar[tuple[str, ...]] = ViewsLosses._fields

    def __init__(self, config: TrainConfig, shape: ViewsConfig | None = None) -> None:
        """Open the data of a config, and begin a network of a shape. Raises UserError as `HouseTrainer` does."""
        self.config, self.reader = config, PairReader(config.data)
        known = load_network(SHIPPED)
        source = HouseConfig(self.reader.image_size[0], known.config.stem, known.config.widths, "metric")
        shape = shape or ViewsConfig(source=source)
        _check_size(config, self.reader, shape.multiple)
        torch.manual_seed(config.seed)
        self.network = HouseViews(shape).to(config.device)
        if (shape.source.stem, shape.source.widths) == (known.config.stem, known.config.widths):
            self.network.source.load_state_dict(known.state_dict())

    def batch(self, step: int) -> Pairs:
        """As many frames as a step's windows have context frames, but each from anywhere, with its views."""
        return self.reader.pairs(self.config.seed, step, self.config.batch_size * self.config.context, VIEWS)

    def find(self, batch: Pairs) -> Found:
        """How far the network is from the truth of a batch."""
        with torch.autocast(batch.rgb.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            imagined = self.network(batch.rgb, batch.intrinsics, batch.frame_from_view)
        found = views_losses(imagined, batch.views, batch.depth)
        return Found(found.total(), found._asdict())

    def describe(self) -> str:
        """The text of `model.json`."""
        return describe_views(self.network.config)


Lesson = DepthLesson | ViewsLesson
LESSONS: dict[str, Callable[[TrainConfig, Any], Lesson]] = {"house_depth": DepthLesson, "house_views": ViewsLesson}
"""Every teacher of our own by its name in `TrainConfig.prior`."""


def load_teacher(folder: Path) -> tuple[nn.Module, str]:
    """A trained teacher of any kind, and the text of its model.json.

    Raises:
        UserError: a file is missing or damaged, or the weights are of another architecture.
    """
    try:
        described = read_json(folder / "model.json")
        has_source = "source" in described["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'model.json'} does not describe a teacher of ours: {error}") from None
    return (load_views if has_source else load_network)(folder), json.dumps(described, indent=2) + "\n"


def _check_size(config: TrainConfig, reader: TeacherReader, multiple: int) -> None:
    height, width = reader.image_size
    if height % multiple or width % multiple:
        raise UserError(f"data={config.data}: frames are {height} x {width}, expected multiples of {multiple}")
