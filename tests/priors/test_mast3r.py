"""MASt3R as a teacher: matches at our pixels, and the real model and its own matching against a call by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry import project
from embodied_liftwm.geometry.cameras import pixel_centres
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.priors.contract import PriorOptions
from embodied_liftwm.priors.geometric import mast3r, pairs
from embodied_liftwm.priors.geometric.stereo_models import MAST3R, import_class
from embodied_liftwm.priors.registry import find_card, open_prior
from tests.priors.pair_models import MAST3R_KWARGS, SIZE, save_tiny, side, toy_clip, true_answer, true_points


def reciprocal(first: Tensor, second: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of pixels whose descriptors are each other's nearest, in MASt3R's own format: int64 (x, y)."""
    closeness = first.flatten(0, 1) @ second.flatten(0, 1).T
    there, back = closeness.argmax(1), closeness.argmax(0)
    mutual = (back[there] == torch.arange(len(there))).nonzero().flatten()
    width = first.shape[1]
    return tuple(torch.stack([k % width, k // width], -1).numpy()[:, :] for k in (mutual, there[mutual]))  # type: ignore


def with_descriptors(answer: tuple[dict[str, Tensor], dict[str, Tensor]], world_from_first: Tensor) -> pairs.PairMaps:
    """Add descriptors that know where in the world their pixel is, so that the nearest ones show the same point."""
    for number, side_ in enumerate(answer):
        points = side_["pts3d_in_other_view" if number else "pts3d"]
        world = points @ world_from_first[:3, :3].T + world_from_first[:3, 3]
        waves = torch.cat([f(world * k) for f in (torch.sin, torch.cos) for k in (0.7, 1.9, 5.0, 13.0)], dim=-1)
        side_["desc"] = F.normalize(waves, dim=-1)
        side_["desc_conf"] = torch.full(points.shape[:3], 3.0 if number else 1.0)
    return pairs.read_answer(*answer)


def test_matches_show_the_same_point_of_the_room_at_our_pixels() -> None:
    clip, pair, size = toy_clip(), (1, 2), 56
    maps = with_descriptors(true_answer(clip, pair, size), clip.world_from_camera[1])
    found = mast3r.match(maps, 0, torch.tensor(pair), (SIZE, SIZE), reciprocal)
    assert len(found.pixels) > 100
    assert found.frames.unique(dim=0).tolist() == [[1, 2]]
    assert found.confidence.unique().tolist() == [0.5]  # the less sure of 1 / 2 and 3 / 4
    # The first pixels lie on centres of the model's grid: lift the truth there and look from the second camera.
    index = (found.pixels[:, 0] * size / SIZE - 0.5).round().long()
    torch.testing.assert_close((index + 0.5) * SIZE / size, found.pixels[:, 0])
    points = true_points(clip.world_from_camera, 1, 1, size)[index[:, 1], index[:, 0]]
    second_from_first = inverse_pose(clip.world_from_camera[2]) @ clip.world_from_camera[1]
    there, _ = project(points[None], clip.intrinsics[None], second_from_first[None])
    off = (there[0] - found.pixels[:, 1]).abs()
    inside = ((there[0] > 1) & (there[0] < SIZE - 1)).all(-1)
    assert off[inside].mean(0).max() < 0.3  # a pixel of the model's is 0.57 of ours; a wrong rule would add 0.2 and a bias
    assert (there[0] - found.pixels[:, 1])[inside].mean(0).abs().max() < 0.05


def test_a_pair_in_both_orders_is_matched_once_and_a_frame_beside_itself_never() -> None:
    chosen = torch.tensor([[0, 1], [1, 0], [2, 2], [3, 1]])
    assert mast3r.first_of_both_orders(chosen).tolist() == [True, False, False, True]


def test_no_matches_are_still_matches() -> None:
    assert mast3r.join([]).pixels.shape == (0, 2, 2)
    nothing = mast3r.match(
        pairs.PairMaps(torch.ones(1, 2, 4, 4, 3), torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4, 8), torch.ones(1, 2, 4, 4)),
        0, torch.tensor([0, 1]), (4, 4), lambda a, b: (np.zeros((0, 2), int), np.zeros((0, 2), int)),
    )  # fmt: skip
    assert nothing.pixels.shape == (0, 2, 2) and nothing.frames.shape == (0, 2)


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    missing = find_card("mast3r").missing
    assert "git clone --recursive https://github.com/naver/mast3r" in missing(PriorOptions(code=str(tmp_path)))
    with pytest.raises(UserError, match="CC-BY-NC-SA-4.0, and the terms of its training sets, which forbids"):
        open_prior("mast3r", PriorOptions())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(MAST3R, MAST3R_KWARGS, tmp_path_factory.mktemp("mast3r"))


def opened(folder: str) -> Any:
    return open_prior("mast3r", PriorOptions(weights=folder, accept_license=True))


def test_the_real_model_is_asked_and_matched_as_by_hand(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mast3r.fast_nn import fast_reciprocal_NNs

    clip = toy_clip(3)
    given = opened(tiny).observe(clip)
    assert given.points.convention == given.depth.convention == "metric"
    model = import_class(MAST3R, "").from_pretrained(tiny).eval()
    i, j = given.matches.frames[0].tolist()
    with torch.inference_mode():
        first, second = model(side(clip.rgb[[i]], "0"), side(clip.rgb[[j]], "1"))
    own = (given.points.frames == i) & (given.points.references == i)
    theirs = (given.points.frames == j) & (given.points.references == i)
    torch.testing.assert_close(given.points.points[own][0], first["pts3d"][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(given.points.points[theirs][0], second["pts3d_in_other_view"][0], atol=1e-5, rtol=1e-4)
    xy = fast_reciprocal_NNs(first["desc"][0], second["desc"][0], 8, device="cpu", dist="dot", block_size=2**13)
    of_pair = (given.matches.frames == torch.tensor([i, j])).all(1)
    expected = torch.from_numpy(np.stack(xy, 1)) + 0.5  # the frames are of the model's size
    assert len(expected) and torch.equal(given.matches.pixels[of_pair], expected.float())
    sure = np.minimum(*(s["desc_conf"][0].numpy()[p[:, 1], p[:, 0]] for s, p in zip((first, second), xy)))
    torch.testing.assert_close(given.matches.confidence[of_pair], torch.from_numpy(sure / (1 + sure)), atol=1e-5, rtol=1e-4)


def test_matches_of_small_frames_lie_on_them(tiny: str) -> None:
    given = opened(tiny).observe(toy_clip(3, size=20))
    assert given.points.points.shape[1:] == (20, 20, 3)
    assert (given.matches.pixels > 0).all() and (given.matches.pixels < 20).all()
    grid = given.matches.pixels[:, 0] * SIZE / 20 - 0.5
    torch.testing.assert_close(grid, grid.round(), atol=1e-4, rtol=0)
    assert pixel_centres(2, 2).min() == 0.5
