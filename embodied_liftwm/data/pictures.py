"""Picture files of any mode, as 8-bit RGB."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from embodied_liftwm.errors import UserError

MOST_PIXELS = 2**26
"""A picture that claims more is not decoded: a file of some kilobytes can claim gigabytes."""
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")


def read_picture(path: Path) -> Image.Image:
    """Read a picture as it is meant to look: 16 bits are scaled to 8, palettes and greys become RGB, alpha lies over black.

    Raises:
        UserError: no such picture, a file that is none, one too large, or of a mode that has no range, such as float.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is below Pillow's
            with Image.open(path) as picture:
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise UserError(f"{path}: {width} x {height} pixels, expected a picture of at most {MOST_PIXELS} pixels")
                return _as_rgb(picture, path)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such picture") from None
    except Exception as error:  # each decoder has its own for a damaged file: SyntaxError, struct.error, IndexError, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as a picture ({reason})") from None


def _as_rgb(picture: Image.Image, path: Path) -> Image.Image:
    mode = picture.mode
    if mode in _SIXTEEN_BITS or (mode == "I" and picture.format == "PNG"):
        grey = np.asarray(picture).astype(np.float64) / 257  # 65,535 is 255
        return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if mode in ("I", "F"):
        raise UserError(f"{path}: a picture of mode {mode}, whose range is not known: expected 8 or 16 bits a channel")
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured).convert("RGB")
    return picture.convert("RGB")
