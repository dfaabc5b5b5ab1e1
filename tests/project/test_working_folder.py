"""The installed `liftwm` finds the user's files beside them, after all that is installed, and blames them by their own line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import embodied_liftwm
from embodied_liftwm.config import EnvOptions
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError
from embodied_liftwm.priors.contract import PriorOptions
from embodied_liftwm.priors.registry import open_prior

TOY = (Path(__file__).parents[1] / "agents" / "toy_camera_env.py").read_text()
POLICY = """
import numpy as np

class Forward:
    def __init__(self, env, seed):
        self.action = np.full(env.action_space.shape, 0.25, np.float32)
    def act(self, obs, info):
        return self.action

def make_policy(env, seed):
    return Forward(env, seed)

def make_function(env, seed):
    return lambda obs, info: np.full(2, seed, np.float32)
"""


def liftwm(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the console script, or what pip would make of it, in a folder."""
    script = Path(sys.executable).with_name("liftwm")
    if not script.exists():
        script = folder / "bin" / "liftwm"
        script.parent.mkdir(exist_ok=True)
        script.write_text("import sys\nfrom embodied_liftwm.cli import main\nsys.exit(main())\n")
    command = [sys.executable, str(script), *words]
    return subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "baseline=leaver:make", "model=base", "suite=navigation", "workers=1", "out=out"),
        ("generate", "model=leaver:make", "first_frame=frame.png", "out=out"),
        ("train-agent", "model=base", "env=leaver:make", "run=out"),
        ("collect", "env=leaver:make", "policy=random", "episodes=1", "workers=1", "out=out"),
    ],
)
def test_every_command_finds_a_file_of_the_working_folder_and_lets_it_end_the_program(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "leaver.py").write_text("import sys\n\ndef make():\n    sys.exit(41)\n")
    Image.new("RGB", (64, 64)).save(tmp_path / "frame.png")
    done = liftwm(tmp_path, *words)
    assert done.returncode == 41, done.stderr


def test_env_policy_and_prior_beside_the_user_do_their_work(tmp_path: Path) -> None:
    (tmp_path / "my_env.py").write_text(TOY)
    (tmp_path / "my_policy.py").write_text(POLICY)
    (tmp_path / "my_prior.py").write_text("def make(options):\n    return None\n")
    stray = "raise SystemExit('a stray file ran in place of an installed module')\n"
    for name in ("mujoco", "random", "numpy", "isal"):
        (tmp_path / f"{name}.py").write_text(stray)
    words = ("env=my_env:make_env", "policy=my_policy:make_policy", "episodes=1", "steps=4", "workers=1", "out=data")
    done = liftwm(tmp_path, "collect", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "data/dataset.json").read_text())["policy"] == "my_policy:make_policy"
    assert (EvaluationReader(tmp_path / "data")[0].action == 0.25).all()
    done = liftwm(tmp_path, "priors", "run", "name=my_prior:make", "data=data")
    line = "prior my_prior:make returned None, which lacks fingerprint, observe: see embodied_liftwm.priors.contract.Prior"
    assert (done.returncode, done.stderr) == (2, f"liftwm: error: {line}\n")


def test_what_acts_is_recorded_and_said(folder: Path) -> None:
    (folder / "own_env.py").write_text(TOY)
    done = liftwm(folder, "collect", "env=own_env:make_env", "episodes=1", "steps=3", "workers=1", "out=data")
    assert done.returncode == 0, done.stderr
    assert "own_env:make_env is explored by policy=wander" in done.stderr
    assert json.loads((folder / "data/dataset.json").read_text())["policy"] == "wander"


def test_a_failing_factory_shows_its_own_line_and_on_request_everything(tmp_path: Path) -> None:
    (tmp_path / "bad_env.py").write_text("import json\n\ndef make_env():\n    return json.loads('{')\n")
    words = ("collect", "env=bad_env:make_env", "policy=random", "episodes=1", "workers=1", "out=data")
    done = liftwm(tmp_path, *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "env=bad_env:make_env: bad_env.py:4 (return json.loads('{')): JSONDecodeError: Expecting property" in done.stderr
    done = liftwm(tmp_path, *words, LIFTWM_TRACEBACK="1")
    assert done.returncode == 2 and "Traceback" in done.stderr and "json.decoder.JSONDecodeError" in done.stderr


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("def make(:\n", "x0.py:1 (def make(:): SyntaxError: "),
        ("a = 1\nimport no_such_thing\n", "x1.py:2 (import no_such_thing): ModuleNotFoundError: No module"),
        ("from math import taw\n", "x2.py:1 (from math import taw): ImportError: cannot import name 'taw'"),
        ("print(undefined)\n", "x3.py:1 (print(undefined)): NameError: name 'undefined' is not defined"),
        ("def make_modle(): ...\n", "x4.py has no 'make': did you mean 'make_modle'?"),
        ("make = 3\n", "make of x5.py is 3, expected a function"),
        ("def make(size): ...\n", "x6.py:1: TypeError: make() missing 1 required positional argument"),
        ("def make():\n    assert False\n", "x7.py:2 (assert False): AssertionError"),
        ("def make():\n    raise ValueError('two\\nlines')\n", "ValueError: two lines"),
        ("import embodied_liftwm as e\ndef make():\n    e.load('none')\n", "x9.py:3 (e.load('none')): no model at none"),
        ("def make(): ...\n", "model=x10:make returned None, which lacks initial_state, observe, "),
        ("class make: ...\n", "model=x11:make lacks initial_state, observe, "),
        ("def make(): return int\n", "model=x12:make returned the class int, expected an object of it"),
    ],
)
def test_what_is_wrong_with_a_model_is_one_line(folder: Path, code: str, line: str, request: pytest.FixtureRequest) -> None:
    name = f"x{request.node.callspec.indices['code']}"
    (folder / f"{name}.py").write_text(code)
    with pytest.raises(UserError) as caught:
        embodied_liftwm.load(f"{name}:make")
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_names_that_lead_nowhere(folder: Path) -> None:
    (folder / "our_modell.py").write_text("")
    (folder / "tomllib.py").write_text("def make(): ...\n")
    for name, line in {
        "our_model:make": "no module named 'our_model' in .*; did you mean 'our_modell'?",
        "our_modell.py:make": "expected module:function, as in our_modell:make",
        "./sub/our_modell.py:make": "expected module:function, as in sub.our_modell:make",
        "tomllib:make": "has no 'make': it has .*loads.*; tomllib.py of this folder gives way to it: rename yours",
    }.items():
        with pytest.raises(UserError, match=line):
            embodied_liftwm.load(name)


def test_interrupts_of_the_user_pass_through(folder: Path) -> None:
    (folder / "stops.py").write_text("def make(*_):\n    raise KeyboardInterrupt\n")
    for opened in (
        lambda: embodied_liftwm.load("stops:make"),
        lambda: open_prior("stops:make", PriorOptions()),
        lambda: find_env("stops:make").make(EnvOptions(), truth=False),
    ):
        with pytest.raises(KeyboardInterrupt):
            opened()


@pytest.mark.parametrize("made", ["None", "3", "(1, 2, 3)", "(gymnasium.Env(), 3)"])
def test_an_env_that_is_none_is_named(folder: Path, made: str, request: pytest.FixtureRequest) -> None:
    name = f"e{request.node.callspec.indices['made']}"
    (folder / f"{name}.py").write_text(f"import gymnasium\n\ndef make():\n    return {made}\n")
    with pytest.raises(UserError, match=f"env={name}:make returned .*, expected a gymnasium.Env, or a pair"):
        find_env(f"{name}:make").make(EnvOptions(), truth=False)
