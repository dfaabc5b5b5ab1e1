"""What a persistent state is worth to policies."""

from embodied_liftwm.experiments.agents.experiment import run

__all__ = ["run"]
