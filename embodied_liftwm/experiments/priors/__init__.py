"""Does a teacher help, and when does it harm?"""

from embodied_liftwm.experiments.priors.experiment import run

__all__ = ["run"]
