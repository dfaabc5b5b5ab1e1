"""An episode as an mp4 that any player shows."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from embodied_liftwm.files import whole_file

LEAST_PIXELS = 256
"""A side of the video at least: players show 64 pixels as a stamp."""


def write_mp4(path: str | Path, rgb: np.ndarray, fps: int = 8) -> tuple[int, int]:
    """Write frames as h264 (yuv420p), enlarged by a whole factor to at least 256 pixels.

    Args:
        path: file to write, whole or not at all.
        rgb: frames. [F, H, W, 3] uint8
        fps: frames a second.

    Returns:
        Height and width of the video.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    scale = -(-LEAST_PIXELS // min(rgb.shape[1:3]))
    if scale % 2 and (rgb.shape[1] % 2 or rgb.shape[2] % 2):
        scale += 1  # yuv420p halves both sides
    height, width = scale * rgb.shape[1], scale * rgb.shape[2]
    with (
        whole_file(path) as partial,
        av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as video,
    ):
        stream = video.add_stream("h264", rate=fps, options={"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in rgb:
            large = np.ascontiguousarray(frame.repeat(scale, 0).repeat(scale, 1))
            video.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        video.mux(stream.encode())
    return height, width
