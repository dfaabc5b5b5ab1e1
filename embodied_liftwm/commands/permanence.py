"""`liftwm evaluate suite=permanence`: does a model still know what it can no longer see, and can it use that?"""

from __future__ import annotations

from typing import Any

from embodied_liftwm.config import PlannerConfig
from embodied_liftwm.evaluation.controls_suite import controls_suite
from embodied_liftwm.evaluation.suites import Suite


def suites() -> dict[str, Suite]:
    """Every suite of the benchmark by name, in the order of the report. A new suite is a line here."""
    found: tuple[Suite, ...] = (controls_suite(planner_on),)
    return {suite.name: suite for suite in found}


def planner_on(model: Any, device: str, env: Any, seed: int) -> Any:
    """A planner on a model that is loaded already."""
    from liftwm_agents.planner import PlannerPolicy

    return PlannerPolicy(model, PlannerConfig(), env.action_space, device, seed)
