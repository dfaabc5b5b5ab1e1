"""The recorder by itself: it makes room as an episode goes on, and keeps what it was given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from embodied_liftwm.data.recorder import Recorder
from embodied_liftwm.errors import UserError


def frame(k: int) -> dict[str, Any]:
    return {
        "rgb": np.full((8, 8, 3), k, np.uint8),
        "intrinsics": np.array([6, 0, 4, 0, 6, 4, 0, 0, 1], np.float32),
        "world_from_camera": np.eye(4, dtype=np.float32).ravel(),
    }


def test_it_makes_room_for_more_steps_than_it_was_told_of() -> None:
    recorder = Recorder(SimpleNamespace(unwrapped=None), steps=2)
    recorder.add(frame(0), {})
    for k in range(1, 8):
        recorder.add(frame(k), {"phase": "call" if k > 4 else "tour"}, np.array([k, -k]), 0.5, False, k == 7)
    episode = recorder.finish({"seed": 3}).validate("here")
    assert episode.rgb[:, 0, 0, 0].tolist() == [*range(8)]
    assert episode.action[:, 0].tolist() == [*range(1, 8)] and episode.truncated.tolist() == [False] * 6 + [True]
    assert episode.meta == {
        "seed": 3, "return": 3.5, "frames": 8, "success": None, "call_frame": 5, "shortest_path_m": None
    }  # fmt: skip


def test_a_frame_unlike_those_before_is_refused() -> None:
    recorder = Recorder(SimpleNamespace(unwrapped=None))
    recorder.add(frame(0), {})
    with pytest.raises(UserError, match=r"action: frame 1 holds 'left', expected numbers"):
        recorder.add(frame(1), {}, "left", 0.0, False, False)
