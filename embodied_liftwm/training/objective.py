"""The objective of a training: its named terms and their learned noise scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import nn

from embodied_liftwm.config.checks import shown
from embodied_liftwm.errors import UserError
from embodied_liftwm.objectives.elbo import Elbo, elbo
from embodied_liftwm.objectives.teacher_terms import TEACHER_TERMS, TeacherTerm
from embodied_liftwm.objectives.terms import TERMS, Rollout, Term

Conventions = Mapping[str, Mapping[str, str]]
"""Term of teachers -> the priors that it takes from -> the convention that each one states."""


class Objective(nn.Module):
    """The named terms of the objective, with their learned noise scales."""

    def __init__(self, names: tuple[str, ...], conventions: Conventions | None = None, hold_noise: bool = False) -> None:
        """Raises UserError for a name that is unknown or given twice."""
        super().__init__()
        check_terms(names)
        self.terms = nn.ModuleDict({name: _term(name, conventions or {}, hold_noise) for name in names})

    def forward(self, rollout: Rollout) -> Elbo:
        """The bound, from the mean log-likelihood of each term over the windows.

        Every term is a mean over windows, and windows do not touch: the mean over equal parts of a batch is that of the batch.
        """
        found = {name: cast(Term, term).log_prob(rollout).mean() for name, term in self.terms.items()}
        viewed = rollout.viewed
        kl = None if viewed is None or viewed.kl is None else viewed.kl.mean()
        return elbo(tuple(self.terms), found, kl)

    def teacher_noise(self) -> list[nn.Parameter]:
        """The learned noise scales of teachers; none where they are held."""
        own = [p for term in self.terms.values() if isinstance(term, TeacherTerm) for p in term.parameters()]
        return [p for p in own if p.requires_grad]


def check_terms(names: tuple[str, ...], key: str = "terms") -> None:
    """Raises UserError for a name that is unknown or given twice, and for none at all; `key` is how they are set."""
    unknown = [name for name in names if name not in TERMS]
    if unknown or len(set(names)) != len(names) or not names:
        raise UserError(f"{key}={shown(str(list(names)))}: expected distinct names out of {sorted(TERMS)}")


def _term(name: str, conventions: Conventions, held: bool) -> Term:
    return TEACHER_TERMS[name](conventions.get(name), held) if name in TEACHER_TERMS else TERMS[name]()
