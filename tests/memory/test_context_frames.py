"""Raw frames: what a buffer that grows in place keeps for every state that shares it, and which frames a camera is shown."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from embodied_liftwm.memory.contract import Bytes
from embodied_liftwm.memory.frames.context import ContextFrames
from embodied_liftwm.protocols import Camera
from tests.toy_room import intrinsics, pose

SIZE = 8


def frame(number: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """A picture that tells its number, at a place that does so too."""
    at = torch.from_numpy(pose(0.1 * number, 0.0, 0.3 * number))
    return torch.full((batch, 3, SIZE, SIZE), number / 255.0), at.expand(batch, 4, 4)


def watched(numbers: range | list[int], batch: int = 1, room: int = 0) -> ContextFrames:
    frames = ContextFrames.empty(batch, (SIZE, SIZE), torch.zeros(()), room)
    for number in numbers:
        frames = frames.add(*frame(number, batch))
    return frames


def numbers_in(frames: ContextFrames, row: int = 0) -> list[int]:
    count = int(frames.count[row])
    assert torch.equal(frames.poses[row, :count], torch.stack([frame(int(n))[1][0] for n in frames.rgb[row, :count, 0, 0, 0]]))
    return frames.rgb[row, :count, 0, 0, 0].tolist()


def test_every_state_keeps_what_it_held_while_others_go_on() -> None:
    old = watched(range(5))
    new = old.add(*frame(5))
    other = old.add(*frame(6))  # a second future of one past
    assert new.rgb.data_ptr() == old.rgb.data_ptr() != other.rgb.data_ptr()  # the first went on in place
    assert [numbers_in(f) for f in (old, new, other)] == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 6]]
    assert numbers_in(new.add(*frame(7)))[-2:] == [5, 7] and numbers_in(other.add(*frame(8)))[-2:] == [6, 8]


def test_it_grows_without_losing_anything_and_counts_its_bytes() -> None:
    frames, rooms = ContextFrames.empty(1, (SIZE, SIZE), torch.zeros(())), set()
    for number in range(200):
        frames = frames.add(*frame(number))
        rooms.add(frames.slots)
        assert frames.slots <= max(32, 1.25 * int(frames.count) + 32)
        assert Bytes.of(frames, frames.occupied, grows=True).charged == int(frames.count) * (3 * SIZE**2 + 64) + 16
    assert numbers_in(frames) == list(range(200)) and 3 < len(rooms) < 9


def test_rows_of_an_expanded_state_go_on_apart() -> None:
    many = watched(range(3)).expand(2)
    pictures = torch.cat([frame(7)[0], frame(9)[0]])
    places = torch.cat([frame(7)[1], frame(9)[1]])
    after = many.add(pictures, places)
    assert numbers_in(after, 0) == [0, 1, 2, 7] and numbers_in(after, 1) == [0, 1, 2, 9]
    assert numbers_in(many, 0) == numbers_in(many, 1) == [0, 1, 2]


def test_rows_are_chosen_with_the_room_they_need() -> None:
    long, short = watched(range(60)), watched(range(2))
    for mask, expected in ((True, 60), (False, 2)):
        chosen = long.where(torch.tensor([mask]), short)
        assert numbers_in(chosen) == list(range(expected)) and chosen.slots == ContextFrames.room_for(expected)
        assert numbers_in(chosen.add(*frame(9)))[-1] == 9 and numbers_in(chosen) == list(range(expected))
    assert numbers_in(long) == list(range(60)) and numbers_in(short) == [0, 1]


def test_it_survives_save_and_load_bit_for_bit_and_goes_on(tmp_path: Path) -> None:
    frames = watched(range(40), batch=2)
    frames.save(tmp_path / "frames.safetensors")
    loaded = watched([], batch=2).load(tmp_path / "frames.safetensors")
    theirs = loaded.named_tensors()
    assert all(torch.equal(t, theirs[name]) for name, t in frames.named_tensors().items())
    assert numbers_in(loaded.add(*frame(50, 2)), 1) == [*range(40), 50] and numbers_in(frames, 1) == list(range(40))


def looking(x: float, y: float, yaw: float) -> Tensor:
    return torch.from_numpy(pose(x, y, yaw))


def camera(*poses: Tensor) -> Camera:
    return Camera(torch.from_numpy(intrinsics(SIZE)).expand(len(poses), 3, 3), torch.stack(poses), SIZE, SIZE)


def at(*poses: Tensor) -> ContextFrames:
    frames = ContextFrames.empty(1, (SIZE, SIZE), torch.zeros(()))
    for place in poses:
        frames = frames.add(torch.zeros(1, 3, SIZE, SIZE), place[None])
    return frames


def test_the_nearest_look_comes_first_and_those_that_see_nothing_of_it_never() -> None:
    behind, far, near, same = looking(0, 0, math.pi), looking(-2, 0, 0), looking(0, 0.3, 0.1), looking(0, 0, 0)
    chosen, good = at(behind, far, near, same, behind).choose(camera(same), 4)
    assert chosen[0, :3].tolist() == [3, 2, 1] and good[0].tolist() == [True, True, True, False]


def test_one_place_is_looked_from_once_and_both_sides_of_the_view_are_covered() -> None:
    standing = [looking(0, 0, 0.0)] * 5
    left, right = looking(0, 0.1, 0.6), looking(0, -0.1, -0.6)
    chosen, good = at(*standing, left, looking(0, 0.12, 0.62), right).choose(camera(looking(0, 0, 0)), 3)
    assert int(chosen[0, 0]) < 5 and bool(good.all())
    assert 7 in chosen[0, 1:] and set(chosen[0, 1:].tolist()) & {5, 6}


def test_each_view_of_each_row_is_shown_its_own() -> None:
    first, second = (looking(0, 0, 0), looking(0, 0, 2)), (looking(0, 0, 2), looking(0, 0, 0))
    frames = ContextFrames.empty(2, (SIZE, SIZE), torch.zeros(()))
    for a, b in zip(first, second, strict=True):
        frames = frames.add(torch.zeros(2, 3, SIZE, SIZE), torch.stack([a, b]))
    chosen, _ = frames.choose(camera(looking(0, 0, 0.1), looking(0, 0, 2.1), looking(0, 0, 0.1), looking(0, 0, 2.1)), 1)
    assert chosen[:, 0].tolist() == [0, 1, 1, 0]
    torch.testing.assert_close(frames.take(chosen)[1][2, 0], looking(0, 0, 0))


def test_of_nothing_nothing_is_chosen() -> None:
    chosen, good = watched([]).choose(camera(looking(0, 0, 0)), 3)
    assert chosen.tolist() == [[0, 0, 0]] and not bool(good.any())
