"""Code of the user's, named `module:function`: found for every command and every process here, and blamed by its own line.

What is installed is looked through first and the working folder last, so that a file there never takes the place of an
installed module. SystemExit and KeyboardInterrupt of the user's code pass through; any other error becomes one line.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from embodied_liftwm.errors import UserError

_OURS = ("embodied_liftwm", "liftwm_envs", "liftwm_agents")
_named: set[str] = set()
"""Files of modules that the user named: theirs, wherever they are installed."""
_LIBRARIES = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))


def is_function_name(name: str) -> bool:
    """Whether a name is of the form `module:function`."""
    return ":" in name


def import_named(name: str, label: str) -> ModuleType:
    """Import the module of `module:anything`; the working folder is looked through last.

    Args:
        name: as the user wrote it.
        label: how messages call it, such as `env=my_env:make_env`.

    Raises:
        UserError: there is no such module, or its code fails; the user's own line is shown.
    """
    module = name.partition(":")[0]
    if module.endswith(".py") or not all(part.isidentifier() for part in module.split(".")):
        better = module.removesuffix(".py").strip("./").replace("/", ".")
        raise UserError(f"{label}: expected module:function, as in {better or 'my_module'}:{name.partition(':')[2] or 'make'}")
    look_in_working_folder()
    with users_code(label):
        try:
            found = importlib.import_module(module)
            _named.add(os.path.abspath(getattr(found, "__file__", None) or ""))
            return found
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # one that the user's module needs
            missing = error
    near = difflib.get_close_matches(module, [path.stem for path in Path().glob("*.py")], 1)
    hint = f"did you mean '{near[0]}'?" if near else "run in the folder that holds it, or install it"
    raise UserError(f"{label}: no module named '{missing.name}' in {os.getcwd()} or installed; {hint}") from missing


def find_function(name: str, label: str) -> Callable[..., Any]:
    """The function or class behind `module:function`.

    Raises:
        UserError: as `import_named`; no such attribute, the nearest is named; or it cannot be called.
    """
    module, attribute = import_named(name, label), name.partition(":")[2]
    found = getattr(module, attribute, None)
    if callable(found):
        return found
    if hasattr(module, attribute):
        raise UserError(f"{label}: {attribute} of {_file_of(module)} is {found!r}, expected a function")
    own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    near = difflib.get_close_matches(attribute, own, 1) or difflib.get_close_matches(attribute, own, 1, 0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(own[:8]) or 'no function at all'}"
    raise UserError(f"{label}: {_file_of(module)} has no '{attribute}': {hint}{shadowed(module)}")


def call_function(name: str, label: str, *arguments: Any) -> Any:
    """What `module:function` returns.

    Raises:
        UserError: as `find_function`, or it fails; the user's own line is shown.
    """
    function = find_function(name, label)
    with users_code(label, function):
        return function(*arguments)


@contextmanager
def users_code(label: str, function: Callable[..., Any] | None = None) -> Iterator[None]:
    """Turn errors of the user's code, run in this block, into one line with the line they came from.

    Args:
        label: as for `import_named`.
        function: where to point if not even its first line was reached.
    """
    try:
        yield
    except Exception as error:
        text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        parts = [label, _line_of(error, function), "" if isinstance(error, UserError) else type(error).__name__, text]
        raise UserError(": ".join(part for part in parts if part)) from error


def users_fault(error: BaseException) -> str | None:
    """One line for an error that came through code of the user's, with their own line of it; None for any other."""
    if isinstance(error, UserError) or not (line := _line_of(error, None)):
        return None
    return ": ".join(part for part in (line, type(error).__name__, " ".join(str(error).split())) if part)


def require_methods(made: Any, label: str, methods: Sequence[str], contract: str) -> None:
    """Refuse what a function of the user's returned if it cannot do what is needed.

    Args:
        made: the object.
        label: as for `find_function`.
        methods: what it must have.
        contract: where they are described.
    """
    if isinstance(made, type):
        raise UserError(f"{label} returned the class {made.__name__}, expected an object of it")
    lacking = [method for method in methods if not callable(getattr(made, method, None))]
    if lacking:
        returned = " returned None, which" if made is None else ""
        raise UserError(f"{label}{returned} lacks {', '.join(lacking)}: see {contract}")


def look_in_working_folder() -> None:
    """Let modules be found in the working folder, after all others."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()  # files may have come since it was last looked through


def shadowed(module: ModuleType) -> str:
    """A hint where a file of the working folder has the name of an installed module; empty otherwise."""
    file = Path(f"{module.__name__.partition('.')[0]}.py").absolute()
    same = not file.is_file() or Path(getattr(module, "__file__", None) or "").absolute() == file
    return "" if same else f"; {file.name} of this folder gives way to it: rename yours"


def _line_of(error: BaseException, function: Callable[..., Any] | None) -> str:
    """`my_model.py:3 (x = 1 / 0)`: the last line of the user's that an error came through; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return _place(error.filename, error.lineno, error.text)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not _is_library(frame.filename):
            return _place(frame.filename, frame.lineno, frame.line)
    code = getattr(function, "__code__", None)
    return _place(code.co_filename, code.co_firstlineno, None) if code else ""


def _place(file: str, line: int | None, text: str | None) -> str:
    shown = f" ({' '.join(text.split())})" if text and text.strip() else ""
    return f"{_short(file)}:{line}{shown}"


def _is_library(file: str) -> bool:
    """Whether a file is none of the user's: of this project, of Python or of something installed."""
    if file in _named:
        return False
    ours = [os.path.dirname(sys.modules[name].__file__ or "") for name in _OURS if name in sys.modules]
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    folders = tuple(f"{folder}{os.sep}" for folder in (*ours, *python))
    return file.startswith(("<", *folders)) or file.endswith(".pyx") or any(name in file for name in _LIBRARIES)


def _file_of(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return _short(file) if file else f"module {module.__name__}"


def _short(file: str) -> str:
    """A path as it reads from the working folder, if it is below that."""
    here = f"{os.getcwd()}{os.sep}"
    return file.removeprefix(here)
