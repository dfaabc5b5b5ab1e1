"""Checkpoints with a name: how one is made, how it is found, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from embodied_liftwm import load
from embodied_liftwm.errors import UserError
from embodied_liftwm.training import checkpoint
from embodied_liftwm.training.checkpoint import export, shipped
from embodied_liftwm.training.trainer import Trainer
from tests.training.small import config, same, weights


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
    assert sorted(path.name for path in (place / "tiny").iterdir()) == ["README.md", "model.json", "model.safetensors"]
    assert same(load("tiny").state_dict(), weights(run))
    assert not load("tiny").training and not any(p.requires_grad for p in load("tiny").parameters())


def test_a_folder_of_that_name_comes_first(run: Path, place: Path) -> None:
    export(run, place / "tiny", "card")
    near = export(run, Path("tiny"), "card")
    changed = {name: torch.zeros(tensor.shape) for name, tensor in weights(run).items()}
    from safetensors.torch import save_file

    save_file(changed, near / "model.safetensors")
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
