"""The probe: a small network that is asked where a hidden object is now, and may read nothing but a frozen state's summary.

It is trained on tours of training scenes, whose truth the evaluation may read and no world model ever does, and then asked in
scenes of a manifest. What it cannot tell is either not in the summary or not there in a form that a small network can use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN, LAYERS = 256, 2
DROPOUT, WEIGHT_DECAY, LEARNING_RATE = 0.1, 1e-2, 1e-3
BATCH, MOST_EPOCHS, PATIENCE = 128, 200, 20
"""Common values of small perceptrons, tuned for nobody: a probe must not be fitted to one model's summary."""
HELD_BACK = 5
"""One training episode in so many decides when to stop."""
CLIP = 8.0
"""Standardised features are limited to so many standard deviations: an unseen summary may lie far outside."""


@dataclass(frozen=True)
class Asked:
    """Questions to a probe, and their true answers."""

    features: np.ndarray  # [R, F] float32: the summary under the question, and the question (colour, one-hot shape)
    place: np.ndarray  # [R, 2] float32: metres ahead and to the left of the camera, in its heading
    episode: np.ndarray  # [R] int: whose scene


class Probe:
    """A multi-layer perceptron on standardised features; see `fit`."""

    def __init__(self, network: nn.Sequential, shift: Tensor, scale: Tensor, mean_place: Tensor, spread: float) -> None:
        self._network, self._shift, self._scale = network, shift, scale
        self._mean_place, self._spread = mean_place, spread

    @torch.no_grad()
    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Places that the probe reads off features [R, F]: [R, 2] metres ahead and to the left."""
        self._network.eval()
        read = self._network(_standard(torch.from_numpy(features), self._shift, self._scale))
        return (self._mean_place + self._spread * read).numpy()

    @property
    def baseline(self) -> np.ndarray:
        """The variance baseline: the mean place of the training questions, whatever is asked. [2] metres"""
        return self._mean_place.numpy()


def fit(asked: Asked, seed: int = 0) -> Probe:
    """Train a probe with Adam on the Huber loss; the weights that answer the episodes held back best are kept.

    Args:
        asked: questions in training scenes, of two episodes or more.
        seed: of the weights and of the order of the questions.
    """
    features, place = torch.from_numpy(asked.features), torch.from_numpy(asked.place)
    _, order = np.unique(asked.episode, return_inverse=True)
    held = (
        torch.from_numpy(order % HELD_BACK == HELD_BACK - 1) if order.max() >= HELD_BACK - 1 else torch.from_numpy(order == 0)
    )
    shift, scale = features[~held].mean(0), features[~held].std(0).clamp(min=1e-3)
    middle, spread = place[~held].mean(0), float(place[~held].std(0).mean())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(features.shape[1])
        inputs, targets = _standard(features, shift, scale), (place - middle) / spread
        _train(network, (inputs[~held], targets[~held]), (inputs[held], targets[held]), spread)
    return Probe(network, shift, scale, middle, spread)


def distance_m(read: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Error of the places read, in the plan. [R] metres"""
    return np.linalg.norm(read - place, axis=-1)


def _network(inputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in [inputs, *[HIDDEN] * (LAYERS - 1)]:
        layers += [nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT)]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, 2))


def _standard(features: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return ((features - shift) / scale).clamp(-CLIP, CLIP)


def _train(network: nn.Sequential, taught: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], spread: float) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    best, kept, waited = float("inf"), _weights(network), 0
    for _ in range(MOST_EPOCHS):
        network.train()
        for rows in torch.randperm(len(taught[0])).split(BATCH):
            loss = F.smooth_l1_loss(network(taught[0][rows]), taught[1][rows], beta=1.0 / spread)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            error = float((network(held[0]) - held[1]).norm(dim=-1).mean())
        waited += 1
        if error < best:
            best, kept, waited = error, _weights(network), 0
        if waited >= PATIENCE:
            break
    network.load_state_dict(kept)


def _weights(network: nn.Sequential) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
