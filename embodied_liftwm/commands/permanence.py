"""`liftwm evaluate suite=permanence`: does a model still know what it can no longer see, and can it use that?"""

from __future__ import annotations

from embodied_liftwm.evaluation.suites import Suite


def suites() -> dict[str, Suite]:
    """Every suite of the benchmark by name, in the order of the report. A new suite is a line here."""
    found: tuple[Suite, ...] = ()
    return {suite.name: suite for suite in found}
