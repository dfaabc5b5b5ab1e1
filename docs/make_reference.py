"""Write docs/config.md and docs/cli.md from the dataclasses and the parser, so that they cannot disagree with the code.

python docs/make_reference.py            write both pages
python docs/make_reference.py --check    exit 1 if they are out of date
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from dataclasses import fields
from pathlib import Path

import yaml

from embodied_liftwm import cli
from embodied_liftwm.commands import preset_folder, preset_names
from embodied_liftwm.commands.schema import Key, own_keys
from embodied_liftwm.config import COMMANDS

FOLDER = Path(__file__).resolve().parent
NOTE = "<!-- written by docs/make_reference.py; change the code, then run `make docs` -->\n"


def config_page() -> str:
    """Tables of every key of every command, and what each preset changes."""
    parts = [
        NOTE,
        "# Configuration\n",
        "Every command is configured by one frozen dataclass in `embodied_liftwm/config`, the only home of defaults.",
        "Values come from the defaults, then from a preset (`--preset NAME`), then from `key=value` words;",
        "see [the command line](cli.md).\n",
        "Lists are written `[a,b]` or `a,b`. Relative paths start at the current folder.\n",
    ]
    for command, schema in COMMANDS.items():
        parts.append(f"## {command}\n")
        parts.append(f"{(schema.__doc__ or '').strip()}\n")
        if command.startswith(("demo", "reproduce")):
            parts += _staged_part(schema)
        else:
            parts.append(_table(own_keys(schema)))
    return "\n".join(parts + _presets_part())


def _staged_part(schema: type) -> list[str]:
    """The command's own keys, and for each of its stages only the defaults in which it differs from the stage's command."""
    config = schema()
    commands = {known: command for command, known in COMMANDS.items()}
    stages = {f.name: type(getattr(config, f.name)) for f in fields(config) if type(getattr(config, f.name)) in commands}
    standard = {f"{stage}.{key.name}": key.default for stage, known in stages.items() for key in own_keys(known)}
    keys = [key for key in own_keys(schema) if standard.get(key.name, object()) != key.default]
    own, changed = ([key for key in keys if (key.name in standard) == staged] for staged in (False, True))
    if not stages:
        return [_table(own)]
    text = "The keys of each stage are those of its command, behind the stage's name: " + ", ".join(
        f"`{stage}.KEY` as in [{commands[known]}](#{commands[known]})" for stage, known in stages.items()
    )
    return [_table(own), f"{text}.\n", *(["Defaults that differ here:\n", _table(changed)] if changed else [])]


def _table(keys: list[Key]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    rows += [f"| `{k.name}` | {_cell(k.type_text)} | `{k.default_text}` | {_cell(k.meaning)} |" for k in keys]
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _presets_part() -> list[str]:
    parts = ["## Presets\n", "What each file in `configs/` changes.\n"]
    by_size = ["debug", "small", "gpu", "paper"]
    for name in [*by_size, *(name for name in preset_names() if name not in by_size)]:
        text = (preset_folder() / f"{name}.yaml").read_text()
        about = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
        sections = ", ".join(f"`{section}`" for section in yaml.safe_load(text))
        body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        parts.append(f"### {name}\n\n{about} Sections: {sections}.\n\n```yaml\n{body}\n```\n")
    return parts


def cli_page() -> str:
    """The help texts, as printed on a terminal of 100 columns."""
    parts = [
        NOTE,
        "# The command line\n",
        "`liftwm COMMAND [--preset NAME] [key=value ...]`\n",
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | done |",
        "| 1 | the command ran and found a fault (`doctor`, `data check`) |",
        "| 2 | bad input, or a machine that cannot do what was asked: one line on stderr says what and what would be right |",
        "| 130 | interrupted by Ctrl-C; the line says what was kept, and whether the same command continues there |",
        "| 143 | the same, by SIGTERM |",
        "",
        "`LIFTWM_TRACEBACK=1` also prints where an error came from.",
        "The keys of each command are in [configuration](config.md).\n",
    ]
    for words in [[], *([name] for name in cli.SUMMARIES)]:
        title = " ".join(["liftwm", *words])
        body = _help(words).partition("\nkeys, as key=default:")[0].rstrip()
        parts.append(f"## {title}\n\n```\n$ {title} --help\n{body}\n```\n")
    return "\n".join(parts)


def _help(words: list[str]) -> str:
    os.environ["COLUMNS"] = "100"
    os.environ["NO_COLOR"] = "1"
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        cli.main([*words, "--help"])
    return shown.getvalue()


PAGES = {"config.md": config_page, "cli.md": cli_page}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    check = parser.parse_args().check
    stale = [name for name, page in PAGES.items() if not _same(FOLDER / name, page())]
    for name in stale:
        if check:
            print(f"docs/{name} is out of date: run `make docs`", file=sys.stderr)
        else:
            (FOLDER / name).write_text(PAGES[name]())
            print(f"wrote docs/{name}")
    return 1 if check and stale else 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
