"""The bound that all terms are parts of (DESIGN: "one ELBO").

With latent state z, frames x, pseudo-geometry g and generated views d,

    log p(x, g, d | cameras) >= E_q(z | x) [ log p(x | z) + sum_i log p(g_i | z) + sum_j log p(d_j | z) ]
                                - KL( q(z | x) || p(z | z_prev, a) )

and the two sides differ by KL( q(z | x) || p(z | x, g, d) ). A teacher's output is thus data like the frame, one more factor of
the likelihood; its noise scale is its weight. Terms count in full here: one that is averaged over its n numbers is the
log-likelihood to the power of 1 / n, and what is bounded then is the evidence of those weaker likelihoods.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.errors import UserError


class Elbo(NamedTuple):
    """A lower bound on the log evidence, and what it is made of. All in nats and of one shape."""

    bound: Tensor  # [...] what is maximised
    log_likelihoods: dict[str, Tensor]  # [...] of each term, by its name, in the configured order
    kl: Tensor  # [...] of posterior to prior


def elbo(configured: Collection[str], log_likelihoods: Mapping[str, Tensor], kl: Tensor | None = None) -> Elbo:
    """Sum the expected log-likelihoods of the configured terms, less the KL.

    Args:
        configured: names of the terms that make up the objective.
        log_likelihoods: E_q log p of each term by its name, in nats; in expectation over q, or at one sample of it. [...]
        kl: of posterior to prior, in nats of the same kind; None for a posterior that is a point, whose KL is left out. [...]

    Raises:
        UserError: a configured term is missing, or there is one that is not configured: no term comes or goes in silence.
    """
    _check_names(configured, log_likelihoods)
    ordered = {name: log_likelihoods[name] for name in configured}
    total = torch.stack(list(ordered.values())).sum(0)
    kl = torch.zeros_like(total) if kl is None else kl
    assert kl.shape == total.shape, f"kl {list(kl.shape)}, log-likelihoods {list(total.shape)}"
    return Elbo(total - kl, ordered, kl)


def _check_names(configured: Collection[str], given: Mapping[str, Tensor]) -> None:
    if not configured:
        raise UserError("terms=[]: an objective needs at least one term")
    missing = [name for name in configured if name not in given]
    extra = [name for name in given if name not in configured]
    if missing or extra:
        wrong = [f"{', '.join(missing)} is missing"] * bool(missing) + [f"{', '.join(extra)} is not configured"] * bool(extra)
        raise UserError(f"terms={list(configured)}: {'; '.join(wrong)}")
