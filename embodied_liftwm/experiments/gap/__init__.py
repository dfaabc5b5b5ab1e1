"""The 3D-awareness gap: what the 2D loss cannot know of depth, in closed form and on episodes."""

from embodied_liftwm.experiments.gap.experiment import run

__all__ = ["run"]
