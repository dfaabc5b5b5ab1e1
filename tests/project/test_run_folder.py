"""A folder is written by one process at a time, and belongs to the command that made it."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from embodied_liftwm import cli
from embodied_liftwm.config import (
    TRAIN_MAY_CHANGE,
    DemoConfig,
    EvaluateConfig,
    GenerateConfig,
    ReproduceGapConfig,
    TeacherConfig,
    TrainAgentConfig,
    TrainConfig,
)
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import write_text
from embodied_liftwm.folder_lock import held
from embodied_liftwm.run_folder import open_run

Hold = Callable[[Path], subprocess.Popen[str]]
WORDS = {"collect": "out", "train": "run", "train-agent": "run", "evaluate": "out", "demo": "out"}


def everything(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but its lock."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("command", WORDS)
def test_a_folder_that_another_process_holds_is_left_alone(command: str, tmp_path: Path, hold: Hold, capsys) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / ".partial-99999999-metrics.csv").write_text("half")
    other = hold(folder)
    before = everything(folder)
    assert cli.main([command, f"{WORDS[command]}={folder}"]) == 2
    said = capsys.readouterr().err
    assert f"another process (pid {other.pid} on " in said and f"holds {folder}" in said and said.count("\n") == 1
    assert f"another {WORDS[command]}=" in said and everything(folder) == before


def test_a_lock_goes_with_its_process_and_what_is_left_of_it_stops_nobody(tmp_path: Path, hold: Hold) -> None:
    other = hold(tmp_path / "here")
    (tmp_path / "alias").symlink_to(tmp_path / "here")
    with pytest.raises(UserError, match="another process"), held(tmp_path / "alias"):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "here" / ".lock").read_text().startswith(f"pid {other.pid} on ")
    with held(tmp_path / "here") as first, held(tmp_path / "alias") as second:
        assert first and not second
    with held(tmp_path / "here") as again:
        assert again


def test_a_lock_inside_a_lock_does_not_end_it(tmp_path: Path) -> None:
    with held(tmp_path):
        with held(tmp_path):
            pass
        with (tmp_path / ".lock").open("a") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_disk_without_locks_is_used_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def refuse(*given: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with held(tmp_path) as anew:
        assert anew
    assert "cannot be locked (No locks available): let no other process write there" in capsys.readouterr().err


OWNERS = {
    "train": TrainConfig(), "train-agent": TrainAgentConfig(), "evaluate": EvaluateConfig(), "demo": DemoConfig(),
    "generate": GenerateConfig(), "reproduce gap": ReproduceGapConfig(),
}  # fmt: skip


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("owner", OWNERS)
def test_a_folder_belongs_to_its_command(owner: str, old: bool, tmp_path: Path) -> None:
    with open_run(tmp_path, OWNERS[owner]):
        stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored.pop("command") == owner
    if old:  # as versions wrote it that did not name the command, and had other settings
        write_text(tmp_path / "config.yaml", yaml.safe_dump(stored | {"gone": 1}))
    before = everything(tmp_path)
    for other in OWNERS.keys() - {owner}:
        with pytest.raises(UserError, match=f"belongs to `liftwm {owner}`: choose another"), open_run(tmp_path, OWNERS[other]):
            pass
    assert everything(tmp_path) == before
    with open_run(tmp_path, OWNERS[owner]):
        pass


def test_a_command_inside_another_leaves_the_folder_to_it(tmp_path: Path) -> None:
    with open_run(tmp_path, DemoConfig()):
        before = everything(tmp_path)
        with open_run(tmp_path, EvaluateConfig()):
            assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("config.yaml", "name: my thesis\nlayers: 3\n", "config.yaml is none of liftwm"),
        ("config.yaml", "[1, 2]", "config.yaml is damaged"),
        ("metrics.csv", "epoch,loss\n1,0.5\n", "holds metrics.csv, which liftwm has not written"),
        ("metrics.json", '{"accuracy": 0.9}', "holds metrics.json, which liftwm has not written"),
        ("report/index.html", "<p>mine</p>", "holds report, which liftwm has not written"),
        ("dataset.json", "{}", "belongs to `liftwm collect`"),
        ("policy.zip", "of stable-baselines3", "holds policy.zip, which liftwm has not written"),
    ],
)
def test_what_others_made_is_not_replaced(name: str, text: str, line: str, tmp_path: Path) -> None:
    write_text(tmp_path / name, text)
    for config in OWNERS.values():
        with pytest.raises(UserError, match=line), open_run(tmp_path, config):
            pass
    assert list(everything(tmp_path)) == [str(tmp_path / name)] and (tmp_path / name).read_text() == text


def test_notes_beside_a_run_and_results_of_older_versions_are_no_hindrance(tmp_path: Path) -> None:
    write_text(tmp_path / "log.txt", "started by me")
    write_text(tmp_path / "metrics.json", '{\n  "command": "liftwm evaluate model=base"\n}')
    with open_run(tmp_path, EvaluateConfig()):
        pass
    assert (tmp_path / "log.txt").read_text() == "started by me"


@pytest.mark.parametrize("words", [["train", "data=nowhere"], ["evaluate", "data=nowhere"], ["train-agent", "model=nowhere"]])
@pytest.mark.parametrize("there", [False, True])
def test_bad_input_leaves_no_new_folder(words: list[str], there: bool, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / "mine").mkdir()
    assert cli.main([*words, "out=mine" if words[0] == "evaluate" else "run=mine"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert (tmp_path / "mine").exists() == there


def test_what_was_done_before_a_fault_stays(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="later"), open_run(tmp_path / "run", TrainConfig()) as folder:
        (folder / "metrics.csv").write_text("step\n")
        raise UserError("later")
    assert (tmp_path / "run" / "metrics.csv").exists()


def test_a_run_of_a_teacher_by_its_former_name_and_command_goes_on(tmp_path: Path) -> None:
    former = {"command": "train", "prior": "house_depth", "data": "rooms", "run": "r", "batch_size": 2, "context": 8}
    shared = {"learning_rate": 3e-3, "grad_clip": 1.0, "seed": 0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(former | shared))
    mine = TeacherConfig(data="rooms", run=str(tmp_path), frames=16)
    with open_run(tmp_path, mine, TRAIN_MAY_CHANGE, continued=True):
        assert yaml.safe_load((tmp_path / "config.yaml").read_text())["command"] == "priors train"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(former | shared))
    with (
        pytest.raises(UserError, match="holds a run with frames=16, asked for frames=8"),
        open_run(tmp_path, TeacherConfig(data="rooms", run=str(tmp_path), frames=8), TRAIN_MAY_CHANGE, continued=True),
    ):
        pass


def test_a_run_whose_model_was_saved_by_older_keys_goes_on(tmp_path: Path) -> None:
    mine = TrainConfig(run=str(tmp_path))
    with open_run(tmp_path, mine):
        stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    groups = ("patches", "gaussians", "latent_bounded", "rgb_cloud", "recurrent", "context")
    flat = {key: value for key, value in stored["model"].items() if key not in groups}
    flat |= {"budget": 512, "texels": 8, "memory_bytes": 2**20, "recurrent_dim": 512, "voxel_m": 0.01, "context_views": 4}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored | {"model": flat}))
    with open_run(tmp_path, mine, TRAIN_MAY_CHANGE, continued=True):
        assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["patches"] == {"budget": 512, "texels": 8}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored | {"model": flat | {"budget": 64}}))
    with (
        pytest.raises(UserError, match="holds a run with model.patches.budget=64, asked for model.patches.budget=512"),
        open_run(tmp_path, mine, TRAIN_MAY_CHANGE, continued=True),
    ):
        pass


def test_a_training_of_a_version_without_mixtures_goes_on(tmp_path: Path) -> None:
    mine = TrainConfig(run=str(tmp_path), data=("rooms",))
    with open_run(tmp_path, mine):
        stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    older = {key: value for key, value in stored.items() if key not in ("weights", "validation")} | {"data": "rooms"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    with open_run(tmp_path, mine, TRAIN_MAY_CHANGE, continued=True):
        assert yaml.safe_load((tmp_path / "config.yaml").read_text())["data"] == ["rooms"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    with (
        pytest.raises(UserError, match=r"holds a run with validation=.*, asked for validation=.*0.05"),
        open_run(tmp_path, replace(mine, validation=(0.05,)), TRAIN_MAY_CHANGE, continued=True),
    ):
        pass
