"""Every prior by its name. Its module defines `CARD` and is imported only when asked for, its libraries only when opened."""

from __future__ import annotations

import difflib
import importlib

from embodied_liftwm.errors import UserError
from embodied_liftwm.priors.contract import Prior, PriorCard, PriorOptions, check_licence

MODULES = (
    "depth_anything",
    "dust3r",
    "mast3r",
    "zero123",
    "mvdream",
    "gaussian_splatting",
    "house_depth",
    "mvs",
    "disk",
)
"""Modules of this package, one a prior, named as the prior is: other people's models, ours, and geometry without weights."""


def find_card(name: str) -> PriorCard:
    """The card of a prior.

    Raises:
        UserError: there is none of that name; the nearest is named.
    """
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(MODULES)}"
        raise UserError(f"no prior '{name}': {hint}")
    card: PriorCard = importlib.import_module(f"embodied_liftwm.priors.{name}").CARD
    return card


def open_prior(name: str, options: PriorOptions) -> Prior:
    """Open a prior, once its licence is accepted and nothing is missing.

    Raises:
        UserError: unknown, not accepted, or what is missing and how to get it.
    """
    card = find_card(name)
    check_licence(card, options)
    lacks = card.missing(options)
    if lacks:
        raise UserError(f"prior {name}: {lacks}")
    return card.open(options)
