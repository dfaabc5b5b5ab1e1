"""How commands speak to a terminal. Paths and names are the user's text: `[/x]` in one is printed, never read as markup."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import TextColumn
from rich.text import Text


def plain_console(**options: Any) -> Console:
    """A console that prints text as it stands, in tables too; what is to be coloured is a `Text`, or has a `style`."""
    return Console(markup=False, highlight=False, **options)


def text_column(form: str) -> TextColumn:
    """A column of a progress bar, of text as it stands."""
    return TextColumn(form, markup=False)


def heading(console: Console, strong: str, rest: str = "") -> None:
    """An empty line, then a line that begins in bold."""
    console.print(Text.assemble("\n", (strong, "bold"), rest), soft_wrap=True)
