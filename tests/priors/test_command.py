"""`liftwm priors`: a pass shows a prior what the agent saw and nothing else, survives a kill, and is done once."""

from __future__ import annotations

import ast
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from embodied_liftwm import cli
from embodied_liftwm.commands import priors as command
from embodied_liftwm.data import EvaluationReader, TrainingReader
from embodied_liftwm.data.storage import data_files, group_name, write_episode
from embodied_liftwm.priors import cache as cache_module
from embodied_liftwm.priors import registry
from embodied_liftwm.priors.cache import PriorCache, clip_of, complete_cache
from embodied_liftwm.priors.contract import Clip, PriorOptions
from tests.priors import tiny_prior
from tests.priors.datasets import SIZE, STEPS, write_rooms
from tests.toy_room import episode as room

NAME = "tests.priors.tiny_prior:make_prior"
KILLED_AT_FSYNC = """
import os, signal, sys
from embodied_liftwm import cli
flush, calls = os.fsync, 0
def fsync(file):
    global calls
    calls += 1
    flush(file)
    if calls == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
cli.main(sys.argv[2:])
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_rooms(tmp_path / "data", 0, 1, 2, 3)


def run(dataset: Path, *words: str, name: str = NAME) -> int:
    return cli.main(["priors", "run", f"name={name}", f"data={dataset}", *words])


def files(dataset: Path) -> dict[str, bytes]:
    """Every file of every cache, but for what holds it while it is written."""
    found = sorted((dataset / "priors").glob("*/[!.]*"))
    return {str(path.relative_to(dataset)): path.read_bytes() for path in found}


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert cli.main(["priors", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("liftwm: error: ") and error.count("\n") == 1
    return error


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny prior as one of ours, with its card."""
    monkeypatch.setitem(sys.modules, "embodied_liftwm.priors.tiny", tiny_prior)
    for module in (registry, command):
        monkeypatch.setattr(module, "MODULES", {"tiny": "tiny"})
    return "tiny"


def test_every_episode_is_observed_once(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(dataset) == 0
    said = capsys.readouterr().out
    assert "observed 4 episodes: 30 frames in" in said and str(dataset / "priors") in said
    prior, cache = tiny_prior.make_prior(PriorOptions()), complete_cache(dataset, NAME)
    for number, episode in enumerate(EvaluationReader(dataset)):  # as the agent saw it, by another way
        rgb = torch.stack([torch.tensor(frame / 255.0, dtype=torch.float32).movedim(-1, 0) for frame in episode.rgb])
        clip = Clip(rgb, torch.tensor(episode.intrinsics), torch.tensor(episode.world_from_camera))
        expected, found = prior.observe(clip), cache.read(number)
        assert expected.depth and expected.matches and found.depth and found.matches
        torch.testing.assert_close(found.depth.values, expected.depth.values, rtol=2.0**-11, atol=1e-6)
        torch.testing.assert_close(found.depth.confidence, expected.depth.confidence, rtol=0.0, atol=2.0**-12 + 1e-6)
        assert found.depth.convention == "affine_inverse"
        assert torch.equal(found.matches.pixels, expected.matches.pixels)
        assert torch.equal(found.matches.frames, expected.matches.frames)


def test_a_second_run_does_nothing_and_says_so(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(dataset)
    before = {path: path.stat().st_mtime_ns for path in (dataset / "priors").glob("*/[!.]*")}
    capsys.readouterr()
    assert run(dataset) == 0
    assert "holds all 4 episodes already: nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (dataset / "priors").glob("*/[!.]*")}


def test_a_pass_that_was_killed_goes_on(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    undisturbed = Path(shutil.copytree(dataset, tmp_path / "undisturbed"))
    run(undisturbed)
    words = ["priors", "run", f"name={NAME}", f"data={dataset}"]
    # the third file to reach the disk is that of the second episode, after prior.json: it has no name yet
    killed = subprocess.run([sys.executable, "-c", KILLED_AT_FSYNC, "3", *words], capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (folder,) = (dataset / "priors").iterdir()
    left = {path.name for path in folder.iterdir()} - {".lock"}
    assert {name for name in left if not name.startswith(".partial-")} == {"prior.json", "episode-00000000.safetensors"}
    assert len(left) == 3
    done = folder / "episode-00000000.safetensors"
    stamp = done.stat().st_mtime_ns
    capsys.readouterr()
    assert run(dataset) == 0
    assert "observed 3 episodes, 1 were there" in capsys.readouterr().out
    assert done.stat().st_mtime_ns == stamp
    assert files(dataset) == files(undisturbed)


def test_a_part_a_longer_dataset_and_a_changed_episode(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(dataset, "episodes=2")
    assert "observed 2 episodes: 13 frames in" in capsys.readouterr().out
    assert len(files(dataset)) == 1 + 2
    write_rooms(dataset, 4)
    write_episode(dataset, 0, replace(room(9, STEPS, SIZE)))
    run(dataset)
    assert (
        "observed 4 episodes, 1 of them again since they had changed or were damaged, 1 were there" in capsys.readouterr().out
    )
    assert not complete_cache(dataset, NAME).missing()


def test_other_settings_have_a_cache_of_their_own(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(dataset)
    run(dataset, "seed=1")
    folders = sorted((dataset / "priors").iterdir())
    assert len(folders) == 2
    first, second = (PriorCache(folder).read(0).depth for folder in folders)
    assert first and second and not torch.equal(first.values, second.values)


def test_a_prior_is_shown_frames_and_believed_cameras_alone(dataset: Path) -> None:
    clip = clip_of(TrainingReader(dataset), 1)
    episode = EvaluationReader(dataset)[1]
    assert Clip._fields == ("rgb", "intrinsics", "world_from_camera")
    assert clip.rgb.dtype == torch.float32 and clip.rgb.is_contiguous()
    assert np.array_equal((255 * clip.rgb).round().byte().permute(0, 2, 3, 1).numpy(), episode.rgb)
    assert np.array_equal(clip.world_from_camera.numpy(), episode.world_from_camera)
    assert np.array_equal(clip.intrinsics.numpy(), episode.intrinsics)


def test_truth_cannot_reach_a_pass(dataset: Path, tmp_path: Path) -> None:
    """A dataset with other truth, and one without, give the same bytes; what the agent believes decides."""
    other, stripped = (Path(shutil.copytree(dataset, tmp_path / name)) for name in ("other", "stripped"))
    for index, (first, second) in enumerate(zip(data_files(other), data_files(stripped), strict=True)):
        with h5py.File(first, "r+") as file:
            for name in ("depth", "world_from_camera", "segmentation"):
                file[f"{group_name(index)}/truth/{name}"][...] += 1
        with h5py.File(second, "r+") as file:
            del file[f"{group_name(index)}/truth"]
    for folder in (dataset, other, stripped):
        run(folder)
    assert files(dataset) == files(other) == files(stripped)
    moved = room(0, STEPS, SIZE)
    believed = moved.world_from_camera.copy()
    believed[:, 0, 3] += 0.5
    write_episode(other, 0, replace(moved, world_from_camera=believed))
    run(other)
    assert files(dataset) != files(other)


@pytest.mark.parametrize("module", [command, cache_module, registry])
def test_no_module_of_the_pass_knows_how_to_read_truth(module: object) -> None:
    tree = ast.parse(Path(module.__file__).read_text())  # type: ignore[attr-defined]
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import) for alias in node.names}
    assert not names & {"EvaluationReader", "read_episode", "Truth", "h5py", "open_file"}


def test_a_licence_is_accepted_before_anything_else(dataset: Path, registered: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run", f"name={registered}", f"data={dataset}")
    line = "prior tiny: its licence is CC-BY-NC-4.0, which forbids commercial use; set accept_license=true"
    assert line in refused(capsys, *words)
    assert "prior tiny: no weights: set weights= to the folder where" in refused(capsys, *words, "accept_license=true")
    assert not (dataset / "priors").exists()
    assert run(dataset, "accept_license=true", "weights=here", name=registered) == 0
    assert "prior tiny, licence: CC-BY-NC-4.0" in capsys.readouterr().out
    assert complete_cache(dataset, "tiny").about["licence"] == "CC-BY-NC-4.0"


def test_the_list_says_what_is_ready_and_what_is_missing(
    registered: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main(["priors", "list"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "tiny" in line]
    assert rows[0].split()[:3] == ["tiny", "depth,", "matches"] and rows[0].split()[-1] == "no"
    assert rows[1:] == ["tiny: no weights: set weights= to the folder where the checkpoint of this prior is"]  # not broken
    assert cli.main(["priors", "list", "name=tiny", "weights=here"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "tiny" in line]
    assert row.split()[-1] == "yes"


def test_every_prior_of_the_registry_is_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["priors", "list"]) == 0
    shown = capsys.readouterr().out
    listed = {line.split()[0] for line in shown.splitlines() if line.strip()}
    assert set(registry.MODULES) <= listed


def test_the_page_has_a_row_for_every_prior(root: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (root / "docs/priors.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(registry.MODULES)


@pytest.mark.parametrize("name", registry.MODULES)
def test_the_page_says_what_a_prior_gives(root: Path, name: str) -> None:
    (row,) = re.findall(rf"^\| `{name}` \|.*", (root / "docs/priors.md").read_text(), re.MULTILINE)
    gives = row.split("|")[3].replace("sparse", "").split(",")
    assert {kind.strip() for kind in gives} == set(registry.find_card(name).gives)


def test_the_prior_of_the_page_runs(root: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (root / "docs/priors.md").read_text()
    (block,) = re.findall(r"^```python\n(# my_package.py\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "my_package.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_package", raising=False)
    assert run(dataset, name="my_package:make_prior") == 0
    depth = complete_cache(dataset, "my_package:make_prior").read(3).depth
    assert depth and depth.convention == "metric" and torch.equal(depth.values, torch.full((STEPS + 4, SIZE, SIZE), 2.0))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("lst",), "priors lst: did you mean list?"),
        (("run", "data=DATA"), "which prior? Set name="),
        (("run", "data=DATA", "name=inhouse_dept"), "no prior 'inhouse_dept': did you mean inhouse_depth?"),
        (("run", "data=DATA", "name=house_depth"), "no prior 'house_depth': it is called inhouse_depth now"),
        (("run", "data=DATA", "name=oracle"), "no prior 'oracle': there are depth_anything"),
        (("list", "name=inhouse_dept"), "no prior 'inhouse_dept': did you mean inhouse_depth?"),
        (("list", "weights=here"), "weights= and code= are those of one prior: set name= too"),
        (("list", f"name={NAME}"), "only priors of this package have a card"),
        (("run", "data=nowhere", f"name={NAME}"), "no dataset at nowhere: dataset.json is missing"),
        (("run", "data=DATA", "name=no_such_package:make"), "no module named 'no_such_package' in"),
        (("run", "data=DATA", "name=tests.priors.tiny_prior:mak"), "tiny_prior.py has no 'mak': "),
        (("run", "data=DATA", "name=tests.priors.tiny_prior:NoPrior"), "tiny_prior:NoPrior lacks observe"),
        (("run", "data=DATA", "name=tests.priors.tiny_prior:Unhashed"), "fingerprint 'version 2', expected 16 hex digits"),
        (("run", "data=DATA", "batch_size=0"), "batch_size=0: must be at least 1"),
        (("run", "data=DATA", "batchsize=1"), "unknown key 'batchsize': did you mean 'batch_size'?"),
        (("run", "data=DATA", "device=abacus"), "device=abacus: not usable here"),
    ],
)
def test_what_users_get_wrong_is_one_line(
    dataset: Path, words: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refused(capsys, *(word.replace("DATA", str(dataset)) for word in words))
    assert not (dataset / "priors").exists()


def test_an_answer_that_breaks_the_contract_ends_the_pass_and_loses_nothing(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, "run", f"data={dataset}", "name=tests.priors.tiny_prior:Wrong")
    assert "episode 2: depth.confidence: expected numbers in [0, 1]" in error
    assert len([name for name in files(dataset) if name.endswith(".safetensors")]) == 2


def test_a_disk_that_takes_no_more_is_one_line_and_what_was_done_stays(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(dataset, "episodes=2")
    before = files(dataset)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # the kernel refuses as a full disk does, in mid-file
    try:
        error = refused(capsys, "run", f"data={dataset}", f"name={NAME}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot write" in error and "episode-00000002.safetensors" in error
    assert files(dataset) == before
    run(dataset)
    assert not complete_cache(dataset, NAME).missing()
