"""A turn away and back as moving pictures: the true view beside what each model shows, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from embodied_liftwm.evaluation.report.pictures import error_picture, frame_picture
from embodied_liftwm.evaluation.views.strips import Strip

PANEL = 256
"""Pixels that a view is enlarged to, by a whole factor."""
GAP, BAR, LETTERS = 8, 52, 34
"""Pixels between panels, of each of the two lines of words above them, and of their letters: legible at half the size."""
PAPER, INK, WATCHING, BLIND = (24, 26, 29), (236, 237, 239), (98, 196, 131), (242, 154, 74)


def film(strip: Strip, titles: Sequence[str], errors: bool = False) -> np.ndarray:
    """Draw every frame of a strip: where the object is, titles, and the views side by side.

    The first line is green while the model watches and orange once it is shown no more frames.

    Args:
        strip: of `make_strip(..., film=True)`.
        titles: one a panel: the true view, then each model's, each followed by its error if there are `errors`.
        errors: whether each model's error stands beside what it shows.

    Returns:
        Rows and columns are even numbers, as video wants them. [F, rows, columns, 3] uint8
    """
    return np.stack([_frame(strip, k, titles, errors) for k in range(len(strip.frames))])


def frame_words(strip: Strip, k: int) -> tuple[str, str]:
    """Which frame the k-th of a strip is, and where the object is: ("step 41", "gone for 6")."""
    frame, revisit = strip.frames[k], strip.revisit
    if frame <= revisit.last_seen:
        where = "last seen" if frame == revisit.last_seen else "in view" if strip.mask[k].any() else "out of view"
    elif frame < revisit.entry:
        where = f"gone for {frame - revisit.last_seen}"
    else:
        where = "back, blind" if frame > revisit.entry or frame == revisit.frame else "enters, blind"
    return f"step {frame}", where


def _frame(strip: Strip, k: int, titles: Sequence[str], errors: bool) -> np.ndarray:
    true, scale = strip.true_rgb[k], max(1, PANEL // strip.true_rgb.shape[1])
    panels = [frame_picture(true, strip.mask[k], scale)]
    for shown in strip.shown.values():
        panels.append(frame_picture(shown.rgb[k], scale=scale))
        panels += [error_picture(shown.rgb[k], true, scale)] if errors else []
    assert len(panels) == len(titles), f"{len(panels)} panels, {len(titles)} titles"
    height, width = panels[0].shape[:2]
    rows, columns = height + 2 * BAR, len(panels) * (width + GAP) - GAP
    sheet = Image.new("RGB", (columns + columns % 2, rows + rows % 2), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(font_manager.findfont("DejaVu Sans"), LETTERS)
    for i, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        left = i * (width + GAP)
        sheet.paste(Image.fromarray(panel), (left, 2 * BAR))
        draw.text((left + width // 2, 3 * BAR // 2), title, INK, font, anchor="mm")
    step, where = frame_words(strip, k)
    colour = WATCHING if strip.frames[k] < strip.revisit.entry else BLIND
    draw.text((GAP, BAR // 2), step, INK, font, anchor="lm")
    draw.text((width + GAP, BAR // 2), where, colour, font, anchor="lm")
    return np.asarray(sheet)
