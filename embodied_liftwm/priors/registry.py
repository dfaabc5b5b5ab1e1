"""Every prior by its name. Its module defines `CARD` and is imported only when asked for, its libraries only when opened.

A prior of one's own is named `my_package:make_prior`: a callable that takes `PriorOptions` and returns a `Prior`.
"""

from __future__ import annotations

import difflib
import importlib

from embodied_liftwm.config import FORMER_NAMES
from embodied_liftwm.errors import UserError
from embodied_liftwm.plugins import call_function, is_function_name, require_methods
from embodied_liftwm.priors.contract import Prior, PriorCard, PriorOptions, check_licence

MODULES = {
    "depth_anything": "geometric.depth_anything",
    "dust3r": "geometric.dust3r",
    "mast3r": "geometric.mast3r",
    "zero123": "generative.zero123",
    "mvdream": "generative.mvdream",
    "gaussian_splatting": "generative.gaussian_splatting",
    "inhouse_depth": "inhouse.depth",
    "inhouse_views": "inhouse.views",
    "mvs": "geometric.mvs",
    "disk": "geometric.disk",
}
"""Every prior's module in this package, by its name: other people's models, ours, and geometry without weights."""


def check_name(name: str) -> None:
    """Refuse a name that can be no prior's.

    Raises:
        UserError: there is none of that name; the nearest is named.
    """
    if name in FORMER_NAMES:
        raise UserError(f"no prior '{name}': it is called {FORMER_NAMES[name]} now")
    if name not in MODULES and not is_function_name(name):
        near = difflib.get_close_matches(name, MODULES, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(MODULES)}; yours is my_package:make_prior"
        raise UserError(f"no prior '{name}': {hint}")


def find_card(name: str) -> PriorCard:
    """The card of a prior of this package.

    Raises:
        UserError: there is none of that name; the nearest is named.
    """
    check_name(name)
    if is_function_name(name):
        raise UserError(f"prior {name}: only priors of this package have a card: {', '.join(MODULES)}")
    card: PriorCard = importlib.import_module(f"embodied_liftwm.priors.{MODULES[name]}").CARD
    return card


def open_prior(name: str, options: PriorOptions) -> Prior:
    """Open a prior, once its licence is accepted and nothing is missing.

    Raises:
        UserError: unknown, not accepted, or what is missing and how to get it.
    """
    if is_function_name(name):
        return _open_foreign(name, options)
    card = find_card(name)
    check_licence(card, options)
    lacks = card.missing(options)
    if lacks:
        raise UserError(f"prior {name}: {lacks}")
    return card.open(options)


def _open_foreign(name: str, options: PriorOptions) -> Prior:
    """Call `make_prior` of `my_package:make_prior`, and check that what it returns has the protocol's methods."""
    prior: Prior = call_function(name, f"prior {name}", options)
    require_methods(prior, f"prior {name}", ("fingerprint", "observe"), "embodied_liftwm.priors.contract.Prior")
    return prior
