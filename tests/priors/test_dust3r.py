"""DUSt3R as a teacher: pairs, sizes, frames of reference and confidence, and the real model against a call by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry import project
from embodied_liftwm.geometry.cameras import pixel_centres
from embodied_liftwm.priors.contract import Clip, PriorOptions
from embodied_liftwm.priors.geometric import pairs
from embodied_liftwm.priors.geometric.stereo_models import DUST3R, import_class
from embodied_liftwm.priors.registry import find_card, open_prior
from tests.priors.pair_models import DUST3R_KWARGS, SIZE, save_tiny, side, toy_clip, true_answer, true_points
from tests.toy_room import pose


@pytest.mark.parametrize(
    ("frame", "trained", "expected"),
    [
        ((64, 64), 512, (224, 224)),
        ((64, 64), 224, (224, 224)),
        ((480, 640), 512, (384, 512)),
        ((640, 480), 512, (512, 384)),
        ((300, 300), 512, (304, 304)),
        ((64, 128), 32, (16, 32)),
    ],
)
def test_frames_are_given_at_a_size_the_model_knows(frame: tuple[int, int], trained: int, expected: tuple[int, int]) -> None:
    assert pairs.model_size(*frame, trained, 16) == expected


def test_images_span_minus_one_to_one_and_grow_about_their_centre() -> None:
    black_and_white = torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)])
    images = pairs.model_images(black_and_white, (224, 224))
    assert images.shape == (2, 3, 224, 224)
    torch.testing.assert_close(images, torch.tensor([-1.0, 1.0])[:, None, None, None].expand_as(images))
    ramp = (pixel_centres(64, 64)[..., 0] / 64).expand(1, 3, 64, 64)  # colour = u / W at pixel centres
    inner = pairs.model_images(ramp, (224, 224))[0, 0, 112, 20:-20]
    torch.testing.assert_close((inner + 1) / 2, (torch.arange(224.0)[20:-20] + 0.5) / 224, atol=1e-3, rtol=0)


def test_confidence_is_the_sigmoid_of_the_heads_logit() -> None:
    logit = torch.linspace(-9, 9, 19)
    torch.testing.assert_close(pairs.unit_confidence(1 + logit.exp(), 1.0), logit.sigmoid())
    torch.testing.assert_close(pairs.unit_confidence(logit.exp(), 0.0), logit.sigmoid())
    assert pairs.unit_confidence(torch.ones(1), 1.0) == 0


def test_partners_see_the_same_from_aside_and_a_turning_head_has_none() -> None:
    aside = torch.stack([torch.from_numpy(pose(0, 0.3 * k, 0)) for k in range(2)])
    away = torch.from_numpy(pose(0, 0.3, 3.14))[None]
    intrinsics = toy_clip().intrinsics
    three = Clip(torch.zeros(3, 3, 32, 32), intrinsics, torch.cat([aside, away]))
    assert pairs.choose_pairs(three).tolist() == [[0, 1], [1, 0], [2, 2]]
    turning = torch.stack([torch.from_numpy(pose(0, 0, 0.2 * k)) for k in range(4)])
    assert pairs.choose_pairs(Clip(torch.zeros(4, 3, 32, 32), intrinsics, turning)).tolist() == [[k, k] for k in range(4)]


def test_points_belong_to_our_pixels_and_to_the_reference_camera() -> None:
    clip, pair = toy_clip(), (1, 3)
    maps = pairs.read_answer(*true_answer(clip, pair, 112))
    chosen = torch.tensor([pair])
    given = pairs.point_maps(chosen, *pairs.to_frames(maps, SIZE, SIZE), "scale_free")
    assert given.frames.tolist() == [1, 3]
    assert given.references.tolist() == [1, 1]
    assert given.confidence.unique().tolist() == [0.5]
    for k, number in enumerate(pair):
        expected = true_points(clip.world_from_camera, number, pair[0], SIZE)
        off = (given.points[k] - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert off.median() < 2e-3 and off.max() < 0.05  # the room's creases are rounded by the interpolation
    own_from_reference = torch.linalg.inv(clip.world_from_camera[3]) @ clip.world_from_camera[1]
    pixels, depth = project(given.points[1].reshape(1, -1, 3), clip.intrinsics[None], own_from_reference[None])
    assert (depth > 0).all()
    assert (pixels[0] - pixel_centres(SIZE, SIZE).reshape(-1, 2)).norm(dim=-1).median() < 0.02


def test_no_point_lies_between_two_surfaces() -> None:
    points = torch.ones(1, 2, 8, 8, 3)
    points[..., 3:, :] = 4.0  # the edge lies between two pixels of the frame's
    found, _ = pairs.to_frames(pairs.PairMaps(points, torch.ones(1, 2, 8, 8), None, None), 5, 5)
    assert set(found.unique().tolist()) == {1.0, 4.0}


def test_depth_is_that_of_the_reference_and_none_behind_it() -> None:
    clip = toy_clip()
    first, second = true_answer(clip, (2, 0), SIZE)
    first["pts3d"][:, :4, :, 2] *= -1.0
    points, confidence = pairs.to_frames(pairs.read_answer(first, second), SIZE, SIZE)
    depth = pairs.depth_maps(torch.tensor([[2, 0]]), points, confidence, "scale_free")
    assert depth.frames.tolist() == [2]
    assert (depth.values[0, :4] == 0).all() and (depth.confidence[0, :4] == 0).all()
    torch.testing.assert_close(depth.values[0, 5:], true_points(clip.world_from_camera, 2, 2, SIZE)[5:, :, 2])


def test_a_frame_beside_itself_gives_one_map() -> None:
    chosen = torch.tensor([[0, 2], [1, 1], [2, 0]])
    points = torch.arange(6.0).reshape(3, 2, 1, 1, 1).expand(3, 2, 4, 4, 3)
    given = pairs.point_maps(chosen, points, torch.ones(3, 2, 4, 4), "metric")
    assert given.frames.tolist() == [0, 1, 2, 2, 0]
    assert given.references.tolist() == [0, 1, 2, 0, 2]
    assert given.points[:, 0, 0, 0].tolist() == [0, 2, 4, 1, 5]


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    missing = find_card("dust3r").missing
    assert "git clone --recursive" in missing(PriorOptions(code=str(tmp_path)))
    (tmp_path / "dust3r").mkdir()
    (tmp_path / "dust3r/model.py").touch()
    assert "git submodule update --init --recursive" in missing(PriorOptions(code=str(tmp_path)))
    (tmp_path / "croco/models").mkdir(parents=True)
    (tmp_path / "croco/models/croco.py").touch()
    here = PriorOptions(code=str(tmp_path), weights=str(tmp_path))
    assert "lacks config.json, model.safetensors" in missing(here)
    no_such = "nobody/nothing-of-this-name"
    assert f"hf download {no_such}" in missing(PriorOptions(code=str(tmp_path), weights=no_such))
    assert "there is no such folder" in missing(PriorOptions(code=str(tmp_path), weights=str(tmp_path / "absent")))
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors").touch()
    assert missing(here) == ""


def test_its_licence_must_be_accepted() -> None:
    with pytest.raises(UserError, match="CC-BY-NC-SA-4.0, which forbids commercial use"):
        open_prior("dust3r", PriorOptions())


def opened(folder: str, batch_size: int = 8) -> pairs.Any:
    return open_prior("dust3r", PriorOptions(weights=folder, batch_size=batch_size, accept_license=True))


def test_the_real_model_is_asked_as_by_hand(tmp_path: Path) -> None:
    folder, clip = save_tiny(DUST3R, DUST3R_KWARGS, tmp_path), toy_clip()
    given = opened(folder).observe(clip)
    assert given.points.convention == given.depth.convention == "scale_free"
    assert given.depth.frames.tolist() == list(range(5))
    model = import_class(DUST3R, "").from_pretrained(folder).eval()
    frames = {(j, i): k for k, (j, i) in enumerate(zip(given.points.frames.tolist(), given.points.references.tolist()))}
    partners = [(i, j) for j, i in frames if i != j]
    assert partners
    for i, j in partners:
        with torch.inference_mode():
            first, second = model(side(clip.rgb[[i]], "0"), side(clip.rgb[[j]], "1"))
        own, theirs = frames[i, i], frames[j, i]
        torch.testing.assert_close(given.points.points[own], first["pts3d"][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(given.points.points[theirs], second["pts3d_in_other_view"][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(given.points.confidence[theirs], 1 - 1 / second["conf"][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(given.depth.values[i], first["pts3d"][0, ..., 2].clamp_min(0), atol=1e-5, rtol=1e-4)
        assert (first["pts3d"] - second["pts3d_in_other_view"]).abs().max() > 1e-3  # the two heads can be told apart


def test_small_frames_and_any_batch_are_taken(tmp_path: Path) -> None:
    folder = save_tiny(DUST3R, DUST3R_KWARGS, tmp_path)
    clip = toy_clip(size=20)
    whole, by_three = (opened(folder, batch_size).observe(clip).points for batch_size in (8, 3))
    assert whole.points.shape[1:] == (20, 20, 3)
    assert torch.isfinite(whole.points).all()
    torch.testing.assert_close(whole.points, by_three.points, atol=1e-5, rtol=1e-4)


def test_portraits_are_taken_by_a_model_configured_for_landscapes(tmp_path: Path) -> None:
    config = {**DUST3R_KWARGS, "landscape_only": True, "patch_embed_cls": "ManyAR_PatchEmbed"}
    folder = save_tiny(DUST3R, config, tmp_path)
    clip = toy_clip(2)
    portrait = clip._replace(rgb=clip.rgb[..., :16])
    given = opened(folder).observe(portrait).points
    i, j = 0, int(given.frames[given.references == 0][-1])
    model = import_class(DUST3R, "").from_pretrained(folder, landscape_only=False, patch_embed_cls="PatchEmbedDust3R").eval()
    with torch.inference_mode():
        first, _ = model(side(portrait.rgb[[i]], "0"), side(portrait.rgb[[j]], "1"))
    torch.testing.assert_close(given.points[0], first["pts3d"][0], atol=1e-5, rtol=1e-4)


def test_the_fingerprint_is_that_of_the_weights(tmp_path: Path) -> None:
    one = save_tiny(DUST3R, DUST3R_KWARGS, tmp_path / "one")
    same = save_tiny(DUST3R, DUST3R_KWARGS, tmp_path / "same")
    other = save_tiny(DUST3R, DUST3R_KWARGS, tmp_path / "other", seed=1)
    assert opened(one).fingerprint() == opened(same).fingerprint() != opened(other).fingerprint()
    assert len(opened(one).fingerprint()) == 16


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_tiny(DUST3R, DUST3R_KWARGS, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if "head2" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not of AsymmetricCroCo3DStereo: 2 tensors are missing"):
        opened(folder)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "output_mode": "no such mode"}))
    with pytest.raises(UserError, match="cannot be opened as AsymmetricCroCo3DStereo"):
        opened(folder)


def test_a_clone_of_the_repository_serves_as_well(tmp_path: Path) -> None:
    carrier = find_spec("mast3r")
    if carrier is None or not carrier.origin or not Path(carrier.origin).parents[1].joinpath("dust3r/dust3r").is_dir():
        pytest.skip("no installed package to lay out as a clone")
    site = Path(carrier.origin).parents[1]
    (tmp_path / "mast3r").symlink_to(site / "mast3r")
    (tmp_path / "dust3r").symlink_to(site / "dust3r")
    check = (
        "import sys; from embodied_liftwm.priors.geometric.stereo_models import *; before = list(sys.path);"
        f"print(import_class(DUST3R, {str(tmp_path / 'dust3r')!r}).__module__,"
        f"import_class(MAST3R, {str(tmp_path)!r}).__module__, sys.modules['mast3r'].__file__, sys.path == before)"
    )
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120, check=True).stdout
    assert out.split() == ["dust3r.model", "mast3r.model", str(tmp_path / "mast3r/__init__.py"), "True"]
