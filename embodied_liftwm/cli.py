"""The `liftwm` program: parse, dispatch, and turn what users can cause into one line and exit code 2.

Commands live in `embodied_liftwm.commands`, one module each, imported only when they run: `liftwm --help` needs no torch.
Exit codes: 0 done, 1 the command ran and found a fault (`doctor`, `data check`), 2 bad input or a machine that cannot do what
was asked, 130 interrupted by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from embodied_liftwm import __version__
from embodied_liftwm.commands import check_belonging, check_parts, load_config, preset_names
from embodied_liftwm.commands.schema import help_table, own_keys
from embodied_liftwm.config import COMMANDS, EXPERIMENTS
from embodied_liftwm.config.checks import printable, shown
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import errno_of
from embodied_liftwm.interrupts import terminable
from embodied_liftwm.plugins import users_fault

SUMMARIES = {
    "demo": "collect, train, plan, evaluate, report: small, whole, minutes on two cores",
    "collect": "episodes from an environment into a dataset folder",
    "priors": "teachers: which there are, what one says of a dataset, and the training of our own",
    "train": "a world model from a dataset",
    "train-agent": "a stable-baselines3 policy on what a world model remembers",
    "evaluate": "score a world model on held-out episodes and tasks, and write a report",
    "manifest": "freeze the episodes of the permanence benchmark, in any environment",
    "generate": "a video from one first frame and a camera path, with the memory in the loop",
    "bench": "speed, as a ratio within one run",
    "reproduce": "an experiment of the project, from nothing to its figures",
    "data": "look at a dataset: summary, integrity, a video; bring one in, or hand one on",
    "doctor": "check that this machine has what liftwm needs, or that an environment of yours keeps its contract",
}
NAMED = {
    "bench": "what to time, e.g. collect",
    "manifest": "make: drive tours and freeze those that test memory; check: drive them again and compare",
    "reproduce": f"which experiment: {', '.join(EXPERIMENTS)}; its keys: liftwm reproduce NAME --help",
    "priors": "list: each with its licence and whether it is ready here; run: let one observe a dataset; train: one of our own",
}
"""Commands that take a NAME, and what it says."""
KEPT = {
    "train": "it had not begun yet: what was kept before is as it was",  # and train-agent
    "collect": "it had not begun yet: what was kept before is as it was",
    "evaluate": "it had not begun yet: what was kept before is as it was",
    "demo": "what was finished is kept: the same command continues with the rest",
    "reproduce": "what was finished is kept: the same command continues with the rest",
    "priors train": "it had not begun yet: what was kept before is as it was",
    "priors run": "episodes that were observed are kept: the same command continues with the rest",
    "data import": "clips that were imported are kept: the same command continues with the rest",
}
"""What interrupted commands have left that do not say it themselves, or not yet; the others keep nothing."""
DATA_ACTIONS = {
    "info": "summary",
    "check": "integrity of every shard",
    "play": "write an mp4 of an episode",
    "import": "make a dataset of data of others",
    "export": "write a dataset in a format of others",
}
DATA_KEYS = {
    "play": "episode=, out= and fps=",
    "import": "out=, format=, size=, poses=, intrinsics=, rgb= and pose=",
    "export": "format=, out= and truth= (docs/data_format.md)",
}
USER_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.EFBIG, errno.EMFILE, errno.ELOOP, errno.EIO, errno.ENOTEMPTY, errno.ENXIO,
}  # fmt: skip
OUT_OF_MEMORY = "can't allocate memory|out of memory"
"""In the errors of torch, on a CPU and on a GPU."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `liftwm` with these words, by default those of the command line; return the exit code.

    Numerical libraries get one thread, unless the user has said how many: at the sizes of our images a second one gains
    nothing, and beside any other process the two wait for one another (docs/training.md has the figures).
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parsed = argparse.Namespace(command="")
    with terminable() as terminated:
        try:
            parsed = _parse(argv)
            return _dispatch(parsed)
        except KeyboardInterrupt as stop:
            print(f"\nliftwm: interrupted; {str(stop) or _kept(parsed)}", file=sys.stderr)
            return 143 if terminated.stop else 130
        except BrokenPipeError:  # the reader of our output is gone, e.g. `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except Exception as error:
            line = user_message(error)
            if line is None:
                raise
            if os.environ.get("LIFTWM_TRACEBACK") == "1":
                traceback.print_exc()
            print(f"liftwm: error: {line}", file=sys.stderr)
            return 2


def _kept(parsed: argparse.Namespace) -> str:
    """What an interrupted command that does not say it itself has left."""
    told = f"{parsed.command} {getattr(parsed, 'action', '')}{getattr(parsed, 'name', '')}"
    return next((kept for command, kept in KEPT.items() if told.startswith(command)), "nothing was kept")


def user_message(error: BaseException) -> str | None:
    """One line for an error that the input, code of the user's, the machine or the disk caused; None for a bug of ours."""
    environments = sys.modules.get("liftwm_envs.errors")  # an EnvError can only come from a module that is loaded
    mine = (UserError, environments.EnvError) if environments else UserError
    if isinstance(error, mine):
        return printable(" ".join(str(error).split()))
    if fault := users_fault(error):
        return printable(fault)
    if isinstance(error, OSError):
        return _disk_message(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(OUT_OF_MEMORY, str(error))):
        return "out of memory: make the model, the images or the batch smaller, or take fewer processes"
    return None


def _disk_message(error: OSError) -> str | None:
    """Name the file and the reason for a full disk, a missing or unwritable file; None for any other OSError."""
    number = errno_of(error)
    if number is None or number not in USER_ERRNOS:
        return None
    path = error.filename or next(iter(re.findall(r"name = '([^']+)'", str(error))), None)
    return f"{printable(str(path))}: {os.strerror(number)}" if path else os.strerror(number)


def _dispatch(parsed: argparse.Namespace) -> int:
    """Load the configuration first, so that bad words cost no heavy import; then run the command."""
    arguments: list[Any] = []
    if parsed.command in NAMED:
        arguments.append(parsed.name)
    if hasattr(parsed, "preset"):
        schema = schema_of(parsed)
        config: Any = load_config(schema, parsed.preset, parsed.words)
        if parsed.command in COMMANDS and parsed.command in NAMED:
            check_belonging(schema, parsed.command, parsed.name, parsed.words)
        check_parts(config)
        arguments.append(config)
    if parsed.command == "data":
        arguments.append([parsed.action, *parsed.words])
    if parsed.command == "doctor":
        arguments.append(parsed.env.removeprefix("env="))
    module = importlib.import_module(f"embodied_liftwm.commands.{parsed.command.replace('-', '_')}")
    return module.run(*arguments) or 0


def schema_of(parsed: argparse.Namespace) -> type:
    """The dataclass that configures what was asked for; those of `priors train` and of experiments are their own.

    Raises:
        UserError: there is no experiment of that name.
    """
    name = getattr(parsed, "name", "")
    found: type | None = COMMANDS.get(f"{parsed.command} {name}") or COMMANDS.get(parsed.command)
    if found is None:
        near = difflib.get_close_matches(name, EXPERIMENTS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(EXPERIMENTS)}"
        raise UserError(f"no experiment '{shown(name)}': {hint}")
    return found


class _Parser(argparse.ArgumentParser):
    """argparse, except that mistakes take one line and name the nearest real word."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '([^']*)'", message)
        if wrong:
            choices = re.findall(r"[\w-]+", message.partition("choose from")[2])
            close = difflib.get_close_matches(wrong.group(1).lower(), choices, 1, 0.5)
            message = f"unknown word '{wrong.group(1)}': " + (
                f"did you mean '{close[0]}'?" if close else f"one of {', '.join(choices)}"
            )
        message = message.replace(", key=value", "")  # argparse counts them among what is required, of which there may be none
        message = message.replace("expected one argument", f"which one? There are {', '.join(preset_names())}")
        print(f"liftwm: error: {printable(' '.join(message.split()))} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse, allowing `--preset` to stand among the `key=value` words, where plain argparse would stop."""
    words = sys.argv[1:] if argv is None else list(argv)
    parser = _parser(next((name for name in words[1:2] if words[0] == "reproduce"), ""))
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
        parser.error(f"{shown(words[0])}: the command comes first, as in liftwm train --preset small")
    parsed, rest = parser.parse_known_args(words)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(parsed, "words")):
        parser.error(f"unrecognized arguments: {shown(' '.join(rest))}{_flag_hint(parsed.command, rest)}")
    if parsed.command == "doctor" and parsed.env and not parsed.env.startswith("env="):
        parser.error(f"unrecognized arguments: {shown(parsed.env)}: did you mean env={shown(parsed.env)}?")
    if rest:
        parsed.words = [*parsed.words, *rest]
    return parsed


def _flag_hint(command: str, words: Sequence[str]) -> str:
    """What was probably meant by words with dashes, for the end of a line; empty where nobody knows."""
    flag = next((word.partition("=")[0].lstrip("-") for word in words if word.startswith("-")), "")
    schemas = [schema for name, schema in COMMANDS.items() if name.partition(" ")[0] == command]
    if flag in {key.name for schema in schemas for key in own_keys(schema)}:
        return f": keys are written without dashes, {flag}=VALUE"
    return ": did you mean --preset?" if difflib.get_close_matches(flag, ["preset"]) else ""


def _parser(experiment: str) -> argparse.ArgumentParser:
    """The whole grammar: `liftwm COMMAND [--preset NAME] [key=value ...]`; the help of `reproduce` is that of an experiment."""
    parser = _Parser(
        prog="liftwm",
        description="World models with a persistent 3D state for agents that carry a camera.",
        epilog="`liftwm COMMAND --help` lists every key of a command. LIFTWM_TRACEBACK=1 shows where an error came from.",
    )
    parser.add_argument("--version", action="version", version=f"liftwm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, summary in SUMMARIES.items():
        _add_command(
            commands.add_parser(
                name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", **_style(name, experiment)
            ),
            name,
        )
    return parser


def _style(name: str, experiment: str) -> dict[str, Any]:
    tables = [
        f"keys{of.removeprefix(name)}, as key=default:\n{help_table(schema)}"
        for of, schema in COMMANDS.items()
        if of == name or (of.startswith(f"{name} ") and of.removeprefix(f"{name} ") in (experiment, "train"))
    ]
    if not tables:
        return {"allow_abbrev": False}
    return {"epilog": "\n\n".join(tables), "formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}


def _add_command(parser: argparse.ArgumentParser, name: str) -> None:
    if name in NAMED:
        parser.add_argument("name", metavar="NAME", help=NAMED[name])
    if name == "doctor":
        what = "an environment to hold against the contract (docs/your_environment.md), such as env=my_package:make_env"
        parser.add_argument("env", nargs="?", default="", metavar="env=NAME", help=what)
    if name == "data":
        actions = "; ".join(f"{action}: {what}" for action, what in DATA_ACTIONS.items())
        parser.add_argument("action", choices=list(DATA_ACTIONS), help=actions)
        keys = "; ".join(f"{action} takes {taken}" for action, taken in DATA_KEYS.items())
        parser.add_argument("words", nargs="+", metavar="DIR", help=f"folder; {keys}")
    if name in COMMANDS or name == "reproduce":
        parser.add_argument("--preset", metavar="NAME", help=f"start from configs/NAME.yaml: {', '.join(preset_names())}")
        parser.add_argument("words", nargs="*", metavar="key=value", help="override a key, e.g. seed=1")


if __name__ == "__main__":
    if sys.path[0] == os.getcwd():  # `python -m` looks there first, `liftwm` last (`plugins`)
        sys.path.append(sys.path.pop(0))
    sys.exit(main())
