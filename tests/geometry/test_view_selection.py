"""View selection: parallax decides who may be chosen, and what is not yet seen decides who is."""

import torch

from embodied_liftwm.geometry.se3 import se3_exp, so3_exp
from embodied_liftwm.geometry.view_selection import choose_views, has_parallax
from embodied_liftwm.protocols import Camera

INTRINSICS = torch.tensor([[[40.0, 0.0, 32.0], [0.0, 40.0, 32.0], [0.0, 0.0, 1.0]]])


def pose(x: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> torch.Tensor:
    out = torch.eye(4)
    out[:3, :3], out[0, 3], out[2, 3] = so3_exp(torch.tensor([0.0, yaw, 0.0])), x, z
    return out


def choose(*others: torch.Tensor, count: int, allowed: list[float] | None = None) -> tuple[list[int], list[bool]]:
    camera = Camera(INTRINSICS, pose()[None], 64, 64)
    weight = torch.tensor([allowed or [1.0] * len(others)])
    chosen, good = choose_views(camera, torch.stack(others)[None], weight, count)
    return chosen[0].tolist(), good[0].tolist()


def test_only_views_with_parallax_count():
    others = torch.stack([pose(), pose(yaw=0.3), pose(x=0.5), pose(x=3.0), pose(x=0.5, yaw=3.0)])[None]
    assert has_parallax(pose()[None], others).tolist() == [[False, False, True, False, False]]
    chosen, good = choose(*others[0], count=2)
    assert chosen[0] == 2 and good == [True, False]


def test_the_best_baseline_comes_first():
    chosen, good = choose(pose(x=0.1), pose(x=0.6), pose(x=1.4), count=3)
    assert chosen[0] == 1 and good == [True] * 3 and sorted(chosen) == [0, 1, 2]


def test_a_view_of_what_is_not_yet_seen_beats_a_better_one_of_the_same():
    left, left_too, right = pose(x=0.6, yaw=-0.7), pose(x=0.62, yaw=-0.7), pose(x=0.45, yaw=0.75)
    chosen, _ = choose(left, left_too, right, count=2)
    assert 2 in chosen


def test_what_is_not_allowed_is_not_chosen():
    chosen, good = choose(pose(x=0.6), pose(x=0.5), count=2, allowed=[0.0, 1.0])
    assert chosen[0] == 1 and good == [True, False]


def test_rows_are_apart():
    camera = Camera(INTRINSICS.expand(2, 3, 3), torch.stack([pose(), pose(x=1.0)]), 64, 64)
    others = torch.stack([pose(x=0.5), pose(x=1.5), pose(x=0.9)]).expand(2, 3, 4, 4)
    together = choose_views(camera, others, torch.ones(2, 3), 2)[0]
    for row in range(2):
        alone = choose_views(camera.map(lambda t, row=row: t[row : row + 1]), others[:1], torch.ones(1, 3), 2)[0]
        assert together[row].tolist() == alone[0].tolist()


def test_float32_is_compiled_and_chooses_as_float64_does_in_torch():
    generator = torch.Generator().manual_seed(4)
    tangents = torch.randn(24, 33, 6, generator=generator) * torch.tensor([0.5, 0.5, 0.3, 0.2, 0.6, 0.1])
    poses = se3_exp(tangents.double())
    allowed = torch.rand(24, 32, generator=generator).double() * (torch.rand(24, 32, generator=generator) > 0.3)
    camera = Camera(INTRINSICS.double().expand(24, 3, 3), poses[:, 0], 64, 48)
    chosen, good = choose_views(camera, poses[:, 1:], allowed, 20)
    single = Camera(INTRINSICS.expand(24, 3, 3), poses[:, 0].float(), 64, 48)
    mine, mine_good = choose_views(single, poses[:, 1:].float(), allowed.float(), 20)
    assert torch.equal(mine_good, good) and good[:, 0].all() and not good.all()
    assert torch.equal(mine[good], chosen[good])


def test_where_no_view_is_any_good_the_first_is_named():
    chosen, good = choose(pose(), pose(yaw=0.3), count=2)
    assert chosen == [0, 0] and good == [False, False]
