"""Half precision and compilation reach the image networks, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from embodied_liftwm.errors import UserError
from embodied_liftwm.training.networks import image_networks, use_compiler
from embodied_liftwm.training.trainer import Trainer
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model
from tests.training.small import SMALL, config, disturb

MEMORIES = ["gaussians", "recurrent"]
BF16 = 0.02
"""Largest relative difference of a loss in bf16: its numbers have 8 bits, a rounding of up to 0.2 % each."""


def prepared(data: Path, run: Path, memory: str, **changes) -> Trainer:
    trainer = Trainer(config(data, run, model=replace(SMALL, memory=memory), **changes))
    disturb(trainer.model)
    return trainer


@pytest.mark.parametrize("memory", MEMORIES)
def test_stacks_of_convolutions_are_found(memory: str) -> None:
    model = build_model(replace(SMALL, memory=memory), ModelShapes(32, 2, 9))
    networks = list(image_networks(model))
    inside = {id(module) for network in networks for module in network.modules()}
    assert len(networks) >= 2
    assert all(any(isinstance(m, nn.Conv2d) for m in network.modules()) for network in networks)
    assert not [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) in inside]
    deep = sum(p.numel() for network in networks for p in network.parameters())
    convolutions = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    assert deep > 0.5 * convolutions


@pytest.mark.parametrize("memory", MEMORIES)
def test_bf16_gives_nearly_the_losses_of_float32(data: Path, tmp_path: Path, memory: str) -> None:
    exact, half = (prepared(data, tmp_path, memory, precision=p) for p in ("float32", "bf16"))
    seen: set[torch.dtype] = set()
    for network in image_networks(half.model):
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    expected = exact.learner.differentiate(exact.load(0), False)
    found = half.learner.differentiate(half.load(0), False)
    assert seen == {torch.bfloat16}
    assert found["loss"] == pytest.approx(expected["loss"], rel=BF16)
    assert found["loss"] != expected["loss"]
    for parameter in half.model.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or bool(parameter.grad.isfinite().all())


def test_geometry_keeps_its_precision_in_bf16(data: Path, tmp_path: Path) -> None:
    from embodied_liftwm.training.batches import to_device
    from embodied_liftwm.training.rollout import roll_out

    exact, half = (prepared(data, tmp_path, "gaussians", precision=p) for p in ("float32", "bf16"))
    t = to_device(exact.load(0)[0], "cpu")
    mine, theirs = roll_out(exact.model, t), roll_out(half.model, t)
    assert torch.equal(mine.lifted.cost, theirs.lifted.cost)
    assert torch.equal(mine.twist_mean, theirs.twist_mean)
    assert {x.dtype for x in (theirs.lifted.depth, theirs.viewed.rgb, theirs.viewed.depth)} == {torch.float32}


def test_training_in_bf16_ends_in_finite_weights(data: Path, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    trainer = Trainer(config(data, tmp_path / "run", precision="bf16"))
    trainer.fit(rows.append)
    assert len(rows) == 4
    assert all(bool(value.isfinite().all()) for value in trainer.model.state_dict().values())


@pytest.mark.parametrize("memory", MEMORIES)
def test_compiled_networks_keep_their_names_and_results(data: Path, tmp_path: Path, memory: str) -> None:
    """With the backend that traces but does not translate: seconds less."""
    plain, traced = (prepared(data, tmp_path, memory) for _ in range(2))
    use_compiler(traced.model, "cpu", backend="eager")
    assert list(plain.model.state_dict()) == list(traced.model.state_dict())
    expected, found = (t.learner.differentiate(t.load(0), False) for t in (plain, traced))
    assert found == pytest.approx(expected, rel=1e-6)
    assert list(plain.model.state_dict()) == list(traced.model.state_dict())


def test_a_missing_compiler_is_said_in_one_line(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"compile=true: needs a C\+\+ compiler, and there is no no-such-compiler"):
        Trainer(config(data, tmp_path / "run", compile=True))


@pytest.mark.slow
def test_compiled_training_is_training(data: Path, tmp_path: Path) -> None:
    """On depth alone: the encoder's networks forward and backward. Translating those of the decoder too takes twice as long."""
    losses: dict[bool, list[float]] = {False: [], True: []}
    for compiled, found in losses.items():
        trainer = Trainer(config(data, tmp_path / f"run-{compiled}", compile=compiled, geometry_first=1.0, steps=3))
        trainer.fit(lambda row, found=found: found.append(row["loss"]))
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
