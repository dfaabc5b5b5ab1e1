"""The example of docs/your_environment.md: a stranger's world in 25 lines, from `make_env` to a report with navigation."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from embodied_liftwm import cli
from liftwm_envs.contract import ContractEnv, check_env

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = {
    "collect": ["episodes=2", "steps=16", "workers=1"],
    "train": ["steps=2"],
    "evaluate": ["navigation_episodes=2", "tour_steps=8", "max_steps=3", "context=6", "workers=1", "bootstrap=10"],
}


def test_it_takes_few_lines_and_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import your_environment

    lines = [line for line in inspect.getsource(your_environment.Room).splitlines() if line.strip() and '"""' not in line]
    assert len(lines) <= 25
    assert check_env(ContractEnv(your_environment.Room())) == []


def test_its_commands_end_in_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    import your_environment

    for command in your_environment.COMMANDS:
        name, *words = command.split()
        replaced = {word.partition("=")[0] for word in QUICK[name]}
        assert cli.main([name, *(w for w in words if w.partition("=")[0] not in replaced), *QUICK[name]]) == 0
    assert json.loads(Path("data/room/dataset.json").read_text())["policy"] == "wander"
    metrics = json.loads(Path("runs/room-report/metrics.json").read_text())
    assert set(metrics["navigation"]["agents"]) == {"planner", "random"} and metrics["navigation"]["asked"] == 2
    assert metrics["views"]["model"]["psnr"]["mean"] > 0
    left_out = {entry["name"] for entry in metrics["left_out"]}
    assert "oracle" in left_out and "depth and normals" in left_out
    assert "left out: oracle: needs oracle_action()" in capsys.readouterr().out
    assert "What could not be judged" in Path("runs/room-report/report/index.html").read_text()


def test_the_doctor_says_what_it_gives_and_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    assert cli.main(["doctor", "env=your_environment:Room"]) == 0
    assert "frames 48 x 64, actions Discrete(3), goal attributes [3]" in capsys.readouterr().out
    import your_environment

    monkeypatch.setattr(your_environment.Room, "action_space", None)
    assert cli.main(["doctor", "env=your_environment:Room"]) == 1
    assert "fault action space None cannot be recorded" in capsys.readouterr().out
