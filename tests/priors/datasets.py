"""Small datasets of rooms for tests of priors."""

from __future__ import annotations

from pathlib import Path

from embodied_liftwm.data.storage import FORMAT, write_episode, write_info
from tests.toy_room import episode

SIZE = 16
STEPS = 5


def write_rooms(folder: Path, *indices: int, truth: bool = True) -> Path:
    """Add episodes with these dataset indices; lengths differ from one to the next."""
    folder.mkdir(exist_ok=True)
    write_info(folder, {"format": FORMAT, "env": "ToyRoom", "split": "train"})
    for index in indices:
        write_episode(folder, index, episode(index, STEPS + index, SIZE, truth))
    return folder
