"""Episodes on disk: write them whole, train on what the agent saw, evaluate with what was true.

    Episode, Truth           one episode in memory
    TrainingReader           random windows for training; cannot reach truth
    EvaluationReader         whole episodes, truth included
    sample_windows, Batch    the training batch of a step, a pure function of (seed, step)

The format is described in docs/data_format.md. Nothing here imports torch.
"""

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.data.reader import EvaluationReader, TrainingReader
from embodied_liftwm.data.sampling import Batch, sample_windows

__all__ = ["Batch", "Episode", "EvaluationReader", "TrainingReader", "Truth", "sample_windows"]
