"""Checks that the schemas share."""

from __future__ import annotations

from embodied_liftwm.errors import UserError


def at_least(name: str, value: float, least: float) -> None:
    """Raises UserError for a setting below `least`."""
    if not value >= least:
        raise UserError(f"{name}={value}: must be at least {least}")


def above_zero(name: str, value: float) -> None:
    """Raises UserError for a setting that is not finite and above 0."""
    if not 0 < value < float("inf"):
        raise UserError(f"{name}={value}: must be above 0")
