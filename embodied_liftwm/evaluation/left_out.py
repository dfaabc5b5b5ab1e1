"""What cannot be judged, and why: figures that need more than the data tell are left out of every table, and named."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

TRUTHS = {
    "depth": "true depth",
    "world_from_camera": "true poses",
    "segmentation": "true segmentation",
    "object_pose": "objects' true places",
}
"""Arrays of truth that figures need, as reports call them."""
PERSISTENCE_NEEDS = ("depth", "segmentation")
FIGURES: dict[str, dict[str, tuple[str, ...]]] = {
    "views": {
        "PSNR and SSIM of seen pixels, epipolar error, calibration of seen": ("depth", "world_from_camera"),
        "depth and normals": ("depth",),
    },
    "persistence": {"persistence, and pictures of turning away": PERSISTENCE_NEEDS},
}
"""Suite -> its figures -> the truth that they need. What a suite has besides needs none."""


@dataclass(frozen=True)
class LeftOut:
    """Something that was not judged."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def lacking(needed: Sequence[str], known: Collection[str]) -> str:
    """What is needed and not known, in words: "true depth and true poses"; empty where all is known."""
    words = [TRUTHS[name] for name in needed if name not in known]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def left_out(suites: Sequence[str], known: Collection[str], source: str) -> list[LeftOut]:
    """Figures of these suites that data without the rest of truth cannot have; `source` names the data."""
    asked = [entry for suite in suites for entry in FIGURES.get(suite, {}).items()]
    lacked = [(name, lacking(needed, known)) for name, needed in asked]
    return [LeftOut(name, f"needs {words}, which {source} lacks") for name, words in lacked if words]
