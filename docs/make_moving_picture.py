"""Draw the moving picture of the README: true view, what a model shows, and its error, through a turn away and back.

    liftwm collect split=eval seed=1048576 episodes=24 out=data/report-eval
    python docs/make_moving_picture.py base data/report-eval

The episode and the object are chosen by truth alone: the largest of those that were away for 11 steps or more.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image

import embodied_liftwm
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.report.film import film
from embodied_liftwm.evaluation.views.strips import choose_revisits, make_strip

OUT = Path(__file__).parent / "images" / "turn_away.webp"
FRAME_MS, LAST_MS = 160, 1600
TITLES = ("true", "remembered", "error")


def main(words: list[str]) -> None:
    """`MODEL DATA`"""
    name, data = words
    torch.set_num_threads(1)
    episodes = list(EvaluationReader(data))
    ((index, revisit),) = choose_revisits(episodes, 1)
    strip = make_strip([CheckedModel(embodied_liftwm.load(name), name)], episodes[index], index, revisit, film=True)
    first, *others = [Image.fromarray(frame) for frame in film(strip, TITLES, errors=True)]
    times = [FRAME_MS] * len(others) + [LAST_MS]
    first.save(OUT, save_all=True, append_images=others, duration=times, loop=0, lossless=True, quality=50, method=3)
    print(f"{OUT}: episode {index}, {len(times)} frames, {revisit.gap} steps away, {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
