"""What a user's own text looks like on the terminal: as it was written."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table

from embodied_liftwm import cli
from embodied_liftwm.terminal import heading, plain_console, text_column
from tests.toy_room import write_dataset

ODD = "[/x] [red]a[/red] [bold]"


def test_text_is_printed_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    console = plain_console(width=100)
    table = Table(ODD, title=f"{ODD} title")
    table.add_row(f"{ODD} cell")
    console.print(f"{ODD} line")
    console.print(table)
    heading(console, f"{ODD} strong", f"{ODD} rest")
    with Progress(text_column("{task.description}"), console=console) as bar:
        bar.add_task(f"{ODD} bar", total=1)
    shown = capsys.readouterr().out
    for end in ("line", "title", "cell", "bar"):
        assert f"{ODD} {end}" in shown
    assert f"\n{ODD} strong{ODD} rest\n" in shown


def test_only_one_module_makes_consoles(root: Path) -> None:
    for path in sorted((root / "embodied_liftwm").rglob("*.py")):
        text = path.read_text()
        calls = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
        found = {getattr(call, "attr", getattr(call, "id", "")) for call in calls} & {"Console", "TextColumn", "from_markup"}
        assert path.name == "terminal.py" or not (found or "rich.markup" in text), f"{path}: use embodied_liftwm.terminal"


def test_commands_take_folders_with_brackets_in_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.chdir(tmp_path):
        folder = Path("[/x]") / "[bold]"
        folder.mkdir(parents=True)
        write_dataset(folder / "data", episodes=2)
        words = [f"data={folder}/data", f"run={folder}/run", "model.patches.budget=64", "model.stride=4", "model.width=8"]
        words += ["model.planes=4", "batch_size=1", "context=2", "targets=1", "span=4", "steps=1", "threads=1"]
        assert cli.main(["data", "check", f"{folder}/data"]) == 0
        assert cli.main(["data", "info", f"{folder}/data"]) == 0
        assert cli.main(["data", "play", f"{folder}/data", f"out={folder}/a.mp4"]) == 0
        assert cli.main(["train", *words]) == 0
    shown = capsys.readouterr().out
    for end in ("data: 2 episodes", "a.mp4", "run"):
        assert f"{folder}/{end}" in shown.replace("\n", "")
