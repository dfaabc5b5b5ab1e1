"""Whatever users can get wrong gives one clear line and exit code 2, on the real command line, and loses nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embodied_liftwm import cli
from embodied_liftwm.data.storage import FORMAT, write_episode, write_info
from tests.toy_room import episode, write_dataset

TRAIN = ("data=DATA", "run=OUT", "model.patches.budget=64", "model.latent_dim=4", "model.stride=4", "model.width=8")
TRAIN += ("model.planes=4", "batch_size=1", "context=2", "targets=1", "span=4", "steps=2", "save_every=1", "threads=1")
CONTINUE = ("run=RUN", "steps=3")
COMMANDS = {
    "collect": ("collect", "episodes=1", "steps=4", "workers=1", "env_options.image_size=32", "out=OUT"),
    "train": ("train", *TRAIN),
    "train-agent": ("train-agent", "model=RUN", "run=OUT", "env_options.image_size=32", "steps=2", "rollout_steps=2"),
    "evaluate": ("evaluate", "model=RUN", "data=DATA", "out=OUT", "env_options.image_size=32", "bootstrap=2"),
}

TEACHER = {"priors train": ("priors", "train", "data=DATA", "run=OUT", "steps=2", "frames=2")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and a run trained on it."""
    folder = tmp_path_factory.mktemp("prepared")
    write_dataset(folder / "DATA", episodes=2)
    with contextlib.chdir(folder):
        assert cli.main([*COMMANDS["train"], "run=RUN"]) == 0
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it that a test may spoil, as the current folder."""
    with contextlib.chdir(shutil.copytree(prepared, tmp_path / "place")):
        yield tmp_path / "place"


def new_folder(command: str, path: Path) -> str:
    """The word that has a command write under `path`."""
    return f"{'run' if 'train' in command else 'out'}={path}"


def content(folder: Path) -> dict[str, bytes]:
    """Every file that is not a cache, a lock or a description of the failed attempt."""
    ours = (".cache", ".lock", ".lock-workers", "OUT", "versions.txt", "config.yaml")
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and not set(ours) & set(p.parts)}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the program; the one line it ends with."""
    capsys.readouterr()
    try:
        code = cli.main(words)
    except SystemExit as left:
        code = left.code
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("liftwm: error: ") and error.count("\n") == 1, error
    return error


def newest(place: Path, name: str) -> Path:
    return sorted((place / "RUN" / "checkpoints").iterdir())[-1] / name


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9])


def cut_shard(place: Path) -> None:
    path = place / "DATA" / "episode-00000001.h5"
    path.write_bytes(path.read_bytes()[:2000])


def foreign_shard(place: Path) -> None:
    (place / "DATA" / "episode-00000001.h5").write_text("a text")


def other_size(place: Path) -> None:
    shutil.rmtree(place / "DATA")
    write_dataset(place / "DATA", episodes=1, size=64)


def odd_size(place: Path) -> None:
    shutil.rmtree(place / "DATA")
    write_dataset(place / "DATA", episodes=1, size=40)


def no_truth(place: Path) -> None:
    shutil.rmtree(place / "DATA")
    write_dataset(place / "DATA", episodes=1, truth=False)


def training_scenes(place: Path) -> None:
    write_info(place / "DATA", {"format": FORMAT, "env": "Revisit-S", "split": "train"})
    write_episode(place / "DATA", 0, dataclasses.replace(episode(0), meta={"seed": 3}))


def no_episodes(place: Path) -> None:
    for path in (place / "DATA").glob("*.h5"):
        path.unlink()


def other_architecture(place: Path) -> None:
    path = newest(place, "model.json")
    path.write_text(path.read_text().replace('"width": 8', '"width": 16'))


def no_config(place: Path) -> None:
    (place / "RUN" / "config.yaml").unlink()


def a_file_is_there(place: Path) -> None:
    (place / "OUT").write_text("mine")


def nothing(place: Path) -> None:
    """Leave all as it is."""


BAD: list[tuple[Callable[[Path], None], str, tuple[str, ...], str]] = [
    *((nothing, name, ("sed=1",), "unknown key 'sed': did you mean 'seed'?") for name in COMMANDS),
    *((nothing, name, ("seed=one",), "seed=one: expected integer") for name in COMMANDS),
    *((a_file_is_there, name, (), "cannot write OUT") for name in COMMANDS),
    *((nothing, name, ("env=Revisitt-S",), "Revisit-S") for name in ("collect", "train-agent", "evaluate")),
    *((nothing, name, ("model=nowhere",), "no model at nowhere") for name in ("train-agent", "evaluate")),
    *((nothing, name, ("data=nowhere",), "no dataset at nowhere") for name in ("train", "evaluate")),
    (nothing, "evaluate", ("data=nowhere",), "make one with `liftwm collect split=eval out=nowhere`"),
    (no_episodes, "evaluate", (), "holds no episode yet: run `liftwm collect split=eval out=DATA`"),
    (nothing, "train", ("data=nowhere",), "make one with `liftwm collect out=nowhere`"),
    (nothing, "train", ("prior=house_depth",), "teachers of our own are trained by `liftwm priors train name=NAME`"),
    (nothing, "priors train", ("data=nowhere",), "make one with `liftwm collect split=teacher out=nowhere`"),
    (nothing, "priors train", ("data=,",), "data=,: names no dataset"),
    (nothing, "priors train", ("name=house_depth",), "name=house_depth: expected inhouse_depth | inhouse_views"),
    *((cut_shard, name, (), "DATA/episode-00000001.h5 is truncated") for name in ("train", "evaluate")),
    *((foreign_shard, name, (), "episode-00000001.h5 is truncated or not an episode file") for name in ("train", "evaluate")),
    *((no_episodes, name, (), "DATA holds no episode yet") for name in ("train", "evaluate")),
    (nothing, "collect", ("out=DATA",), "DATA was collected with env=toy"),
    (cut_shard, "collect", ("out=DATA",), "DATA/episode-00000001.h5 is truncated"),
    (nothing, "collect", ("policy=oracle", "env=CartPole-v1", "env_options.image_size=64"), "policy=oracle knows liftwm"),
    (odd_size, "train", (), "models take sides that are multiples of 16"),
    (nothing, "train", ("learning_rate=-1",), "learning_rate=-1.0: must be above 0"),
    (nothing, "train", ("terms=frames",), "terms=['frames']: expected distinct names out of"),
    (nothing, "train", (*CONTINUE, "model.width=16"), "RUN holds a run with model.width=8, asked for model.width=16"),
    (no_config, "train", (*CONTINUE, "model.width=16"), "another architecture"),
    (other_size, "train", CONTINUE, "another architecture"),
    (lambda place: cut(place / "RUN" / "config.yaml"), "train", CONTINUE, "config.yaml is damaged"),
    (lambda place: cut(newest(place, "model.safetensors")), "train", CONTINUE, "model.safetensors is not a readable"),
    (lambda place: cut(newest(place, "optimizer.safetensors")), "train", CONTINUE, "optimizer.safetensors is not a readable"),
    (lambda place: cut(newest(place, "state.json")), "train", CONTINUE, "state.json cannot be read"),
    (nothing, "train-agent", ("env_options.image_size=64",), "frames of 32 x 32, the environment gives 64 x 64"),
    (nothing, "train-agent", ("env_options.embodiment=drone",), "trained with actions of 2 numbers, the environment has 6"),
    (nothing, "train-agent", ("env_options.action=discrete",), "trained with actions of 2 numbers, the environment has 6"),
    (nothing, "train-agent", ("env=CartPole-v1", "env_options.image_size=64"), "env=CartPole-v1: rgb: frame 0 has no image"),
    (nothing, "collect", ("env=Acrobot-v1", "env_options.image_size=64"), "its observation lacks rgb, intrinsics, world_from_"),
    (nothing, "train-agent", ("num_envs=0",), "num_envs=0: must be at least 1"),
    (other_architecture, "train-agent", (), "another architecture"),
    (other_architecture, "evaluate", (), "another architecture"),
    (lambda place: cut(newest(place, "model.json")), "evaluate", (), "model.json cannot be read"),
    (other_size, "evaluate", (), "has images of 64x64, model RUN is for 32x32"),
    (nothing, "evaluate", ("env_options.image_size=64",), "env=Revisit-S has images of 64x64"),
    (no_truth, "evaluate", ("suite=persistence",), "needs true depth and true segmentation, which data=DATA lacks"),
    (training_scenes, "evaluate", (), "training scenes"),
    (nothing, "evaluate", ("policy=nowhere", "suite=navigation", "workers=1"), "no policy at nowhere"),
]


@pytest.mark.parametrize(("spoil", "command", "words", "line"), BAD)
def test_one_line_and_2(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    command: str,
    words: tuple[str, ...],
    line: str,
) -> None:
    spoil(place)
    before = content(place)
    assert line in refused([*(COMMANDS | TEACHER)[command], *words], capsys)
    assert content(place) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk of its own, mounted with the options given."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True)
        if done.returncode:
            pytest.skip("this machine does not let us mount")
        return disk

    yield mount
    subprocess.run(["umount", disk], capture_output=True)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("place")
def test_a_read_only_disk(small_disk: Callable[[str], Path], command: str, capsys: pytest.CaptureFixture[str]) -> None:
    disk = small_disk("size=1m,ro")
    line = refused([*COMMANDS[command], new_folder(command, disk / "new")], capsys)
    assert f"cannot write {disk}/new" in line and "read-only" in line


@pytest.mark.usefixtures("place")
def test_a_full_disk_keeps_the_checkpoints_of_a_training(
    small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    disk = small_disk("size=20m")
    words = [*COMMANDS["train"], f"run={disk}/run"]
    assert cli.main(words) == 0
    weights = (disk / "run/checkpoints/step-00000002/model.safetensors").read_bytes()
    room = shutil.disk_usage(disk).free
    (disk / "other").write_bytes(bytes(max(0, room - 40_000)))
    words = [*words, "steps=4"]
    assert f"cannot write {disk}/run" in (line := refused(words, capsys)) and "the disk is full" in line
    assert (disk / "run/checkpoints/step-00000002/model.safetensors").read_bytes() == weights
    assert not list(disk.rglob(".partial-*"))
    (disk / "other").unlink()
    assert cli.main(words) == 0
    assert (disk / "run/checkpoints/step-00000004").is_dir()


@pytest.mark.parametrize("action", [[float("nan"), 0.0], [0.0, 1.5], [0.0]])
def test_an_action_that_cannot_be_taken(action: list[float]) -> None:
    import gymnasium
    import numpy as np

    from liftwm_envs.errors import EnvError

    env = gymnasium.make("liftwm/Revisit-S-v0", image_size=16)
    env.reset(seed=0)
    with pytest.raises(EnvError) as error:
        env.unwrapped.step(np.array(action, np.float32))
    env.close()
    line = cli.user_message(error.value)
    assert line is not None and "action" in line and "\n" not in line


NO_GL = """
import ctypes, ctypes.util
_load, _find = ctypes.CDLL.__init__, ctypes.util.find_library
def load(self, name, *rest, **named):
    if name and any(word in str(name) for word in ("EGL", "OSMesa", "libGL", "glfw")):
        raise OSError(f"{name}: cannot open shared object file")
    _load(self, name, *rest, **named)
ctypes.CDLL.__init__ = load
ctypes.util.find_library = lambda name: None if name in ("EGL", "OSMesa", "GL", "OpenGL", "glfw") else _find(name)
"""


@pytest.mark.parametrize("command", ["collect", "train-agent", "evaluate"])
@pytest.mark.parametrize("cause", ["no library", "MUJOCO_GL=foo"])
@pytest.mark.usefixtures("place")
def test_no_gl(tmp_path: Path, command: str, cause: str) -> None:
    environment = {**os.environ}
    environment.pop("MUJOCO_GL", None)
    if cause == "no library":
        (tmp_path / "sitecustomize.py").write_text(NO_GL)
        environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
    else:
        environment["MUJOCO_GL"] = "foo"
    words = [*COMMANDS[command]]
    words += ["suite=navigation", "navigation_episodes=1", "workers=1"] if command == "evaluate" else []
    done = subprocess.run(
        [sys.executable, "-m", "embodied_liftwm.cli", *words], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("liftwm: error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "MUJOCO_GL" in done.stderr and "install libegl1" in done.stderr
