"""A step's gradient does not depend on how its windows are split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.training.batches import rows_of
from embodied_liftwm.training.parallel import Processes
from embodied_liftwm.training.trainer import Trainer
from tests.training.small import config, disturb


def gradient(data: Path, run: Path, only_geometry: bool, **changes) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Metrics and gradients of the first step."""
    trainer = Trainer(config(data, run, batch_size=4, **changes))
    disturb(trainer.model)
    metrics = trainer.learner.differentiate(trainer.load(0), only_geometry)
    return metrics, {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("only_geometry", [True, False])
def test_accumulated_gradients_are_those_of_the_whole_batch(data: Path, tmp_path: Path, only_geometry: bool) -> None:
    metrics, whole = gradient(data, tmp_path, only_geometry)
    assert sum(float(g.abs().max()) > 0 for g in whole.values()) > 20
    for parts in (2, 4):
        others, split = gradient(data, tmp_path, only_geometry, accumulate=parts)
        assert others == pytest.approx(metrics, rel=1e-4, abs=1e-6, nan_ok=True)
        assert split.keys() == whole.keys()
        for name, g in whole.items():
            assert float((split[name] - g).norm()) <= 1e-3 * float(g.norm()) + 1e-7, name


def test_micro_batches_are_the_windows_in_order(data: Path, tmp_path: Path) -> None:
    whole = Trainer(config(data, tmp_path, batch_size=4)).load(3)
    parts = Trainer(config(data, tmp_path, batch_size=4, accumulate=2)).load(3)
    assert (len(whole), len(parts)) == (1, 2)
    for name, tensor in vars(whole[0].batch).items():
        assert torch.equal(torch.cat([getattr(part.batch, name) for part in parts]), tensor), name


def test_processes_share_the_windows_evenly() -> None:
    settings = TrainConfig(batch_size=12, accumulate=2)
    shares = [rows_of(settings, Processes(rank, 3)) for rank in range(3)]
    assert [list(share) for share in shares] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(UserError, match=r"batch_size=12: .* 4 processes with accumulate=2.* multiple of 8"):
        rows_of(settings, Processes(0, 4))
    with pytest.raises(UserError, match="batch_size=12: must be a multiple of accumulate=5"):
        TrainConfig(batch_size=12, accumulate=5)
