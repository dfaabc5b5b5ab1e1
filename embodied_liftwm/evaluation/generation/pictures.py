"""A generated video beside itself: where it began, the farthest it went, what it came back to, and the difference."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from embodied_liftwm.evaluation.generation.closed_loop import Generated
from embodied_liftwm.evaluation.generation.tours import Tour
from embodied_liftwm.evaluation.report.pictures import ERROR_TOP, error_picture, frame_picture

PANEL_PX = 256
CAPTION_PX = 22
GAP_PX = 6


def frames_uint8(rgb: Tensor) -> np.ndarray:
    """Frames [T, 3, H, W] in [0, 1] as a video writer takes them. [T, H, W, 3] uint8"""
    return (rgb.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def side_by_side(tour: Tour, generated: Generated) -> np.ndarray:
    """Start, farthest step, return and the difference of return and start; below, the true frames where they are known.

    The difference is the mean absolute error of colour, black at 0 and bright at 0.5. A path that does not come back shows its
    last step for the return, which the caption then says.

    Returns:
        [rows, columns, 3] uint8
    """
    far, back = tour.path.farthest(), tour.path.back()
    home = (back, 0) in tour.path.pairs
    captions = [
        "first frame (given)",
        f"step {far}: farthest",
        f"step {back}: {'back' if home else 'last'}",
        "difference to the first",
    ]
    shown = generated.rgb.permute(0, 2, 3, 1).numpy()
    rows = [_row(shown, far, back, captions)]
    if tour.truth is not None:
        true = tour.truth.rgb.astype(np.float32) / 255.0
        rows.append(_row(true, far, back, ["true frames", f"step {far}", f"step {back}", f"bright at {ERROR_TOP:g}"]))
    return np.concatenate(rows)


def _row(frames: np.ndarray, far: int, back: int, captions: list[str]) -> np.ndarray:
    pictures = [frame_picture(frames[step]) for step in (0, far, back)] + [error_picture(frames[back], frames[0])]
    panels = [_panel(picture, caption) for picture, caption in zip(pictures, captions, strict=True)]
    return np.concatenate(panels, axis=1)


def _panel(picture: np.ndarray, caption: str) -> np.ndarray:
    """A picture at one size for all, with words over it and a white rim."""
    scale = PANEL_PX / max(picture.shape[:2])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    sheet = Image.new("RGB", (size[0] + 2 * GAP_PX, size[1] + CAPTION_PX + GAP_PX), "white")
    sheet.paste(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST), (GAP_PX, CAPTION_PX))
    ImageDraw.Draw(sheet).text((GAP_PX, 4), caption, fill="black", font=ImageFont.load_default(size=14))
    return np.asarray(sheet)
