"""The one exception users are meant to read.

Raise `UserError` at a public boundary when the input, the machine or the disk is at fault, with one line that says what was
wrong, where, and what would be right. The command line prints that line and exits with code 2; a library caller catches it
as a `ValueError`. Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class UserError(ValueError):
    """Bad input or a machine that cannot do what was asked: one clear line, exit code 2."""


class TruthAccessError(UserError):
    """Training code asked for `truth/`, which exists for evaluation alone."""
