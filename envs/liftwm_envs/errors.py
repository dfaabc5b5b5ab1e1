"""The one exception users of the environments are meant to read."""

from __future__ import annotations


class EnvError(ValueError):
    """Bad input or a machine that cannot render: one clear line that says what is wrong and what would be right."""
