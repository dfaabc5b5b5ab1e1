"""The two-view protocol of feed-forward methods on RealEstate10K: 2 context frames, 3 targets, which an index names.

A model observes the context frames of a clip and renders the targets between them. Its rows are of their own kind: figures of
this protocol (26 to 30 dB where they are good) and of one image and a trajectory (13 to 19 dB) are never put together. The
latter is `path=recorded` of `liftwm generate`, on the dataset that `liftwm data import` makes of the same clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from embodied_liftwm.data.importers.realestate import read_clip
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.metrics import images as metrics
from embodied_liftwm.evaluation.progress import progress
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch
from embodied_liftwm.files import read_json
from embodied_liftwm.protocols import Observation


@dataclass(frozen=True)
class TwoViewRow:
    """One rendered target frame."""

    model: str
    clip: str
    gap: int  # frames between the context frames
    frame: int  # of the camera file
    psnr: float  # dB
    ssim: float


@dataclass(frozen=True)
class TwoView:
    """One clip of the two-view protocol: frames by their number in the camera file."""

    clip: str
    context: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def gap(self) -> int:
        """Frames between the outer context frames."""
        return max(self.context) - min(self.context)


def read_evaluation_index(path: str | Path) -> tuple[list[TwoView], int]:
    """The evaluation index of feed-forward methods: {"KEY": {"context": [a, b], "target": [c, d, e]} or null}.

    Returns:
        The clips that are scored, and how many the index leaves out (null).

    Raises:
        UserError: not such a file.
    """
    path = Path(path)
    try:
        stored = read_json(path)
        scored = [
            TwoView(key, tuple(map(int, entry["context"])), tuple(map(int, entry["target"])))
            for key, entry in stored.items()
            if entry is not None
        ]
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        expected = '{"KEY": {"context": [a, b], "target": [c, d, e]}}'
        raise UserError(f"{path}: not an evaluation index, expected {expected} ({type(error).__name__}: {error})") from None
    return scored, len(stored) - len(scored)


@torch.no_grad()
def evaluate_two_view(
    models: Sequence[CheckedModel], clips: str | Path, scored: Sequence[TwoView], size: int = 256, device: str = "cpu"
) -> list[TwoViewRow]:
    """Score models on the clips of an index.

    Args:
        models: each observes the context frames in their order in time.
        clips: folder of RealEstate10K's layout (`data.importers.realestate`).
        scored: of `read_evaluation_index`.
        size: pixels a side; the protocol's figures are of 256.
        device: of the models.

    Raises:
        UserError: a clip or a frame that the index names is not there.
    """
    rows: list[TwoViewRow] = []
    with progress("clips", len(scored)) as advance:
        for entry in scored:
            frames = [*sorted(entry.context), *entry.target]
            batch = EpisodeBatch([read_clip(Path(clips) / f"{entry.clip}.txt", size, frames)], [0], device)
            for model in models:
                rows += _score(model, batch, entry)
            advance(1)
    return rows


def _score(model: CheckedModel, batch: EpisodeBatch, entry: TwoView) -> list[TwoViewRow]:
    context, targets = len(entry.context), [(0, len(entry.context) + k) for k in range(len(entry.target))]
    state = model.initial_state(1)
    for t in range(context):
        state = model.observe(state, _for_model(model, batch.observation([(0, t)])))
    view = model.render(state.expand(len(targets)), batch.camera(targets))
    true = batch.observation(targets).rgb
    scores = zip(metrics.psnr(view.rgb, true).tolist(), metrics.ssim(view.rgb, true).tolist(), entry.target, strict=True)
    return [TwoViewRow(model.name, entry.clip, entry.gap, frame, psnr, ssim) for psnr, ssim, frame in scores]


def _for_model(model: CheckedModel, observation: Observation) -> Observation:
    """Without the camera's motion as an action, and without a goal: a model may have been trained with others."""
    action_dim = getattr(getattr(model.model, "shapes", None), "action_dim", 0)
    return replace(observation, action=observation.rgb.new_zeros(len(observation.rgb), action_dim), goal=None)
