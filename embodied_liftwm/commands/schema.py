"""What can be set on the command line, read from the dataclasses and the comments beside their fields.

The help texts, `docs/config.md` and the error messages all come from here, so that none of them can disagree with
`embodied_liftwm.config`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import textwrap
import tokenize
import types
import typing
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

from embodied_liftwm.config.checks import Bounds


@dataclass(frozen=True)
class Key:
    """One setting of a command."""

    name: str  # dotted, as written on the command line
    type: Any  # the annotation, resolved
    default: Any
    meaning: str  # the comment after the field
    field: Field[Any]  # of the schema, which holds the bounds

    @property
    def bounds(self) -> Bounds | None:
        """What a number may be; None for what is no number."""
        return self.field.metadata.get("bounds")

    @property
    def type_text(self) -> str:
        """The type in words a user reads, e.g. `integer, 1 to 64` or `base | drone`."""
        return describe_type(self.type) + (f", {self.bounds}" if self.bounds else "")

    @property
    def default_text(self) -> str:
        """The default as it would be typed after `key=`."""
        if isinstance(self.default, tuple | list):
            return "[" + ", ".join(map(str, self.default)) + "]"
        return "''" if self.default == "" else str(self.default)


def describe_type(annotation: Any) -> str:
    """Name an annotation for users: literals are listed, tuples become lists, optionals end in `or null`."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, arguments))
    if get_origin(annotation) in (tuple, list):
        return f"list of {describe_type(arguments[0])}"
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join("null" if a is type(None) else describe_type(a) for a in arguments)
    return {str: "text", int: "integer", float: "number", bool: "true | false"}.get(
        annotation, getattr(annotation, "__name__", str(annotation))
    )


@functools.cache
def field_comments(schema: type) -> dict[str, str]:
    """Comments on the lines of each field of a module-level dataclass, by field name; lines of comment below continue them.

    Fields that it has of a dataclass that it extends come first, as they do in the dataclass.
    """
    found: dict[str, str] = {}
    for base in schema.__bases__:
        found |= field_comments(base) if is_dataclass(base) else {}
    source = inspect.getsource(schema)
    lines = source.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            end = node.end_lineno or node.lineno
            while end < len(lines) and lines[end].lstrip().startswith("#"):
                end += 1
            own = [comments[line] for line in range(node.lineno, end + 1) if line in comments]
            found[node.target.id] = " ".join(comment for comment in own if comment != "fmt: skip")
    return found


def own_keys(schema: type) -> list[Key]:
    """Every setting of a command's schema, depth first, with the defaults the command would start from."""
    return current_keys(schema())


def current_keys(config: Any, prefix: str = "") -> list[Key]:
    """The same for a configuration that was loaded: `default` is the value it holds."""
    schema: Any = type(config)
    hints, comments = typing.get_type_hints(schema), field_comments(schema)
    found: list[Key] = []
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            found += current_keys(value, f"{prefix}{field.name}.")
        else:
            found.append(Key(prefix + field.name, hints[field.name], value, comments.get(field.name, ""), field))
    return found


def help_table(schema: type, width: int = 110) -> str:
    """Every key with type, default and meaning, for `liftwm COMMAND --help`."""
    keys = own_keys(schema)
    column = max(len(f"{k.name}={k.default_text}") for k in keys if len(k.default_text) < 24) + 4
    rows = []
    for key in keys:
        text = f"{key.meaning} ({key.type_text})"
        first = f"  {key.name}={key.default_text}"
        body = textwrap.wrap(text, max(40, width - column), break_on_hyphens=False)
        if len(first) >= column:
            rows.append(first)
            first = ""
        rows += [first.ljust(column) + body[0]] + [" " * column + line for line in body[1:]]
    return "\n".join(rows)


def command_line(command: str, config: Any) -> str:
    """The shortest command that gives a configuration: only what differs from the defaults."""
    defaults = {key.name: key.default for key in own_keys(type(config))}
    changed = [(key.name, key.default) for key in current_keys(config) if key.default != defaults[key.name]]
    words = (f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in changed)
    return " ".join([f"liftwm {command}", *words])
