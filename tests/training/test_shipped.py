"""Checkpoints with a name: how one is made, how it is found, and what is said where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from embodied_liftwm import load
from embodied_liftwm.data.storage import write_episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import write_sums
from embodied_liftwm.training import checkpoint
from embodied_liftwm.training.checkpoint import export, shipped
from embodied_liftwm.training.trainer import Trainer
from tests.toy_room import episode, write_dataset
from tests.training.small import SMALL, config, same, weights


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a tiny model."""
    folder = tmp_path_factory.mktemp("run")
    Trainer(config(data, folder, steps=2)).fit()
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where shipped checkpoints are looked for, empty; the current folder is another one."""
    folder = tmp_path / "checkpoints"
    monkeypatch.setattr(checkpoint, "SHIPPED", folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def test_an_exported_model_is_loaded_by_name_with_the_runs_weights(run: Path, place: Path) -> None:
    assert export(run, place / "tiny", "# tiny\n\nTwo steps.") == place / "tiny"
    assert shipped() == ["tiny"]
    assert sorted(path.name for path in (place / "tiny").iterdir()) == [
        "README.md", "SHA256SUMS", "model.json", "model.safetensors"
    ]  # fmt: skip
    assert same(load("tiny").state_dict(), weights(run))
    assert not load("tiny").training and not any(p.requires_grad for p in load("tiny").parameters())


def test_a_folder_of_that_name_comes_first(run: Path, place: Path) -> None:
    export(run, place / "tiny", "card")
    near = export(run, Path("tiny"), "card")
    changed = {name: torch.zeros(tensor.shape) for name, tensor in weights(run).items()}
    from safetensors.torch import save_file

    save_file(changed, near / "model.safetensors")
    write_sums(near)
    assert same(load("tiny").state_dict(), changed)


def test_an_unknown_name_lists_what_is_shipped(run: Path, place: Path) -> None:
    with pytest.raises(UserError, match=r"no model at bse: train one .*; none is shipped$"):
        load("bse")
    export(run, place / "base", "card")
    export(run, place / "tiny", "card")
    with pytest.raises(UserError, match=r"no model at bse: train one .*; shipped are base, tiny$"):
        load("bse")


def test_no_checkpoint_without_a_card_or_over_another(run: Path, place: Path) -> None:
    with pytest.raises(UserError, match="needs a card"):
        export(run, place / "tiny", " \n")
    export(run, place / "tiny", "card")
    with pytest.raises(UserError, match="is there already"):
        export(run, place / "tiny", "another")
    assert (place / "tiny/README.md").read_text() == "card\n"
    with pytest.raises(UserError, match="no model at"):
        export("nowhere", place / "other", "card")
    assert shipped() == ["tiny"]


def test_what_the_package_ships_loads_and_has_a_card() -> None:
    for name in shipped():
        assert (checkpoint.SHIPPED / name / "README.md").read_text().strip()
        assert load(name).state_dict()


def test_a_training_begins_with_the_weights_of_another(run: Path, data: Path, tmp_path: Path) -> None:
    begun = Trainer(config(data, tmp_path / "begun", initial=str(run), seed=5))
    at_first, given = ({k: v for k, v in w.items() if "ego_motion" not in k} for w in (begun.model.state_dict(), weights(run)))
    assert begun.step == 0 and same(at_first, given)  # what the body does is fitted to the data at hand
    begun.fit()
    continued = Trainer(config(data, tmp_path / "begun", initial="nowhere", seed=5))  # its own checkpoint comes first
    assert continued.step == begun.step and same(continued.model.state_dict(), begun.model.state_dict())


def test_what_an_architecture_has_grown_by_counts_nothing_at_first(run: Path, data: Path, tmp_path: Path) -> None:
    grown = replace(SMALL, latent_dim=SMALL.latent_dim + 1)
    model = Trainer(config(data, tmp_path / "grown", model=grown, initial=str(run))).model.state_dict()
    untrained = Trainer(config(data, tmp_path / "untrained", model=grown)).model.state_dict()
    old = weights(run)
    name = "decoder.stem.weight"
    inputs = old[name].shape[1]
    assert model[name].shape[1] > inputs
    assert torch.equal(model[name][:, :inputs], old[name]) and not model[name][:, inputs:].any()
    name = "encoder.head.weight"
    outputs = len(old[name])
    assert torch.equal(model[name][:outputs], old[name]) and torch.equal(model[name][outputs:], untrained[name][outputs:])


def test_of_a_narrower_network_the_first_channels_are_taken(run: Path, data: Path, tmp_path: Path) -> None:
    narrow = replace(SMALL, widest=1)
    model = Trainer(config(data, tmp_path / "narrow", model=narrow, initial=str(run))).model.state_dict()
    old = weights(run)
    name = "encoder.trunk.down.0.weight"
    assert len(model[name]) == SMALL.width < len(old[name])
    assert torch.equal(model[name], old[name][: SMALL.width])
    assert torch.equal(model["encoder.head.weight"], old["encoder.head.weight"])


def test_weights_that_do_not_fit_are_named(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has shape \[.*\], expected \[.*\] or less: another architecture"):
        Trainer(config(data, tmp_path / "other", model=replace(SMALL, stride=2), initial=str(run)))
    with pytest.raises(UserError, match="another architecture; it has model.memory=patches$"):
        Trainer(config(data, tmp_path / "another", model=replace(SMALL, memory="recurrent"), initial=str(run)))


def test_of_another_body_and_task_all_but_what_they_do_is_taken(run: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", episodes=2)
    for index in range(2):
        mine = episode(index)
        write_episode(other, index, replace(mine, action=np.repeat(mine.action, 2, axis=1), goal=mine.goal[:, :3]))
    begun, fresh = (Trainer(config(other, tmp_path / name, initial=name and str(run))).model for name in ("new", ""))
    taken = {name for name, tensor in begun.state_dict().items() if not torch.equal(tensor, fresh.state_dict()[name])}
    assert any(name.startswith("encoder.") for name in taken)
    assert not [name for name in taken if name.startswith(("ego_motion.", "heads."))]
