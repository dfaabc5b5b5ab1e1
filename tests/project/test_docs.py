"""The pages are true: generated ones are current, links resolve, commands parse, the quickstart runs."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

from embodied_liftwm import cli
from embodied_liftwm.commands import load_config
from embodied_liftwm.config import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["config.md", "cli.md"])
def test_generated_pages_are_current(reference: ModuleType, name: str) -> None:
    written, fresh = (ROOT / "docs" / name).read_text(), reference.PAGES[name]()
    # argparse breaks lines a little differently from one Python to the next
    assert written.split() == fresh.split(), f"docs/{name} is out of date: run `make docs`"


def test_the_configuration_page_has_every_key_of_every_command(reference: ModuleType) -> None:
    page = reference.config_page()
    for command, schema in COMMANDS.items():
        section = page.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
        staged = command.startswith(("demo", "reproduce"))
        stages = [f.name for f in fields(schema) if staged and type(getattr(schema(), f.name)) in COMMANDS.values()]
        assert all(f"`{stage}.KEY` as in" in section for stage in stages)
        for key in reference.own_keys(schema):
            assert key.name.partition(".")[0] in stages or f"| `{key.name}` |" in section


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_resolve(page: Path) -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    missing = [t for t in targets if t and not t.startswith(("http:", "https:", "mailto:")) and not (page.parent / t).exists()]
    assert not missing


def test_files_named_in_the_map_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    named = [
        path for path in re.findall(r"`([\w/]+/[\w.]*)`", text) if path.startswith(("embodied_liftwm/", "agents/", "envs/"))
    ]
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_liftwm_line_in_a_shell_block_parses(page: Path) -> None:
    for line in "\n".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:1] == ["liftwm"]:
            parsed = cli._parse(words[1:])
            if hasattr(parsed, "preset"):
                load_config(cli.schema_of(parsed), parsed.preset, parsed.words)


def test_every_make_target_that_pages_name_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for line in "\n".join(blocks(page, "bash")).splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                assert {word for word in words[1:] if "=" not in word} <= targets, line


SCRIPTS = [(page, block) for page in ("README.md", "docs/quickstart.md") for block in blocks(ROOT / page, "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page, block", SCRIPTS, ids=lambda value: value if value.endswith(".md") else "")
def test_python_blocks_of_the_first_pages_run(page: str, block: str, tmp_path: Path) -> None:
    script = tmp_path / "quickstart.py"
    script.write_text(block)
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_pages_load_a_model() -> None:
    assert all(any("embodied_liftwm.load" in block for name, block in SCRIPTS if name == page) for page, _ in SCRIPTS)


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1400
    assert len(re.findall(r"^\|[-:| ]+\|$", text, re.MULTILINE)) <= 5, "tables"


def test_the_map_links_to_every_page() -> None:
    linked = re.findall(r"\]\((\w+\.md)", (ROOT / "docs/index.md").read_text())
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} <= set(linked)


def test_links_to_headings_resolve() -> None:
    for page in PAGES:
        for target, heading in re.findall(r"\]\(([^)#\s]*\.md)?#([^)\s]+)\)", page.read_text()):
            text = (page.parent / target).read_text() if target else page.read_text()
            found = {_anchor(line) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
            assert heading in found, f"{page.name}: {target}#{heading}"


def _anchor(heading: str) -> str:
    """What a heading is linked by: lower case, spaces as hyphens, no other marks."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
