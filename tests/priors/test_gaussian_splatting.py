"""3D Gaussian Splatting as a teacher: the fit must find what it was not shown, and a PLY must show what its Gaussians do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry import inverse_pose, se3_exp
from embodied_liftwm.memory.gaussians import rasterize, write_ply
from embodied_liftwm.memory.gaussians.ply import PlyGaussians
from embodied_liftwm.priors.contract import Clip, PriorOptions
from embodied_liftwm.priors.generative import gaussian_splatting as splatting
from embodied_liftwm.priors.generative import splat_fit, splat_scene
from embodied_liftwm.priors.generative.splat_fit import FitSettings
from embodied_liftwm.priors.registry import open_prior
from tests import toy_room
from tests.priors.pair_models import toy_clip

SHORT = FitSettings(gaussians=1500, keyframe_every=2, steps=120)


def psnr(shown: Tensor, true: Tensor) -> float:
    return float(-10 * (shown - true).square().mean().log10())


def true_depth(clip: Clip, size: int = 32) -> Tensor:
    """Metres, of every frame of a toy clip. [F, size, size]"""
    poses = clip.world_from_camera.numpy()
    return torch.stack([torch.from_numpy(toy_room.render(pose, size, 0)[1]) for pose in poses]).float()


def relative_error(depth: Tensor, true: Tensor) -> Tensor:
    return (depth - true).abs() / true


@pytest.fixture(scope="module")
def fitted() -> tuple[Clip, Clip, PlyGaussians, PlyGaussians]:
    """Frames to fit, frames held out, the scene before and after."""
    clip = toy_clip(25)
    held = torch.arange(2, 25, 4)
    kept = torch.tensor([k for k in range(25) if k not in held.tolist()])
    train, test = (Clip(clip.rgb[k], clip.intrinsics, clip.world_from_camera[k]) for k in (kept, held))
    generator = torch.Generator().manual_seed(0)
    first = splat_scene.first_scene(train, SHORT.keyframe_every, SHORT.gaussians, generator)
    return train, test, first, splat_fit.improve(first, train, SHORT, generator)


def test_a_fit_shows_held_out_frames_better_than_what_it_began_with(
    fitted: tuple[Clip, Clip, PlyGaussians, PlyGaussians],
) -> None:
    _, test, first, last = fitted
    before, after = (splat_scene.show(s, test.intrinsics, test.world_from_camera, 32, 32) for s in (first, last))
    assert psnr(after.rgb, test.rgb) > psnr(before.rgb, test.rgb) + 4.0
    assert psnr(after.rgb, test.rgb) > 24.0
    assert relative_error(after.depth, true_depth(test)).median() < 0.05
    assert len(last.means) == len(first.means) <= SHORT.gaussians
    torch.testing.assert_close(last.quats.norm(dim=-1), torch.ones(len(last.quats)))


def test_a_fit_is_the_same_for_the_same_seed() -> None:
    clip, quick = toy_clip(6), FitSettings(gaussians=200, steps=3)
    one, same, other = (splat_fit.fit(clip, quick, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, same))
    assert not torch.equal(one.means, other.means)


def test_the_loss_is_that_of_the_paper() -> None:
    from kornia.losses import ssim_loss

    generator = torch.Generator().manual_seed(0)
    shown, target = torch.rand(2, 2, 3, 24, 24, generator=generator)
    expected = 0.8 * (shown - target).abs().mean() + 0.2 * ssim_loss(shown, target, 11)
    torch.testing.assert_close(splat_fit.image_loss(shown, target, 0.2), expected)
    assert splat_fit.image_loss(target, target, 0.2) == 0


def test_depth_of_cells_is_found_and_its_sureness_tells() -> None:
    clip = toy_clip(13)
    depth, sureness = splat_scene.sweep_depth(clip, torch.arange(13))
    error = relative_error(depth, true_depth(clip, 16))
    sure = sureness > sureness.median()
    assert error[sure].median() < 0.04
    assert error[sure].mean() < 0.6 * error[~sure].mean()


def test_frames_speak_for_true_depth_and_only_from_aside() -> None:
    clip, every = toy_clip(13), torch.arange(13)
    true = true_depth(clip)
    spoken = splat_scene.support(clip, every, true)
    assert spoken.shape == (13, 32, 32)
    seen = spoken > 0  # the rest is seen from one side alone
    assert seen.float().mean() > 0.5
    assert spoken[seen].mean() > 2.5 * splat_scene.support(clip, every, 1.5 * true)[seen].mean()
    turning = torch.stack([torch.from_numpy(toy_room.pose(0, 0, 0.1 * k)) for k in range(13)])
    rgb = torch.stack([torch.from_numpy(toy_room.render(pose, 32, 0)[0]) for pose in turning.numpy()])
    blind = Clip(rgb.permute(0, 3, 1, 2) / 255.0, clip.intrinsics, turning)
    assert splat_scene.support(blind, every, true_depth(blind)).max() == 0


def test_depth_and_views_of_a_clip(fitted: tuple[Clip, Clip, PlyGaussians, PlyGaussians]) -> None:
    train, _, _, last = fitted
    prior = splatting.GaussianSplatting(PriorOptions(batch_size=4))
    prior.scene = last  # instead of a second fit
    given = prior.observe(train)
    error = relative_error(given.depth.values, true_depth(train))
    assert given.depth.convention == "metric"
    assert error.median() < 0.05
    trusted = given.depth.confidence > given.depth.confidence.median()
    assert error[trusted].mean() < 0.7 * error[~trusted].mean()
    views = given.views
    assert len(views.rgb) >= 4 and views.rgb.shape[1:] == (3, 32, 32)
    apart = torch.cdist(views.world_from_camera[:, :3, 3], train.world_from_camera[:, :3, 3]).amin(1)
    assert apart.min() > 0.01  # the agent was at none of them
    truth = [toy_room.render(pose, 32, 0)[0] for pose in views.world_from_camera.numpy()]
    true = torch.stack([torch.from_numpy(rgb) for rgb in truth]).permute(0, 3, 1, 2) / 255.0
    off = (views.rgb - true).abs().mean(1)
    assert (off * views.confidence).sum() / views.confidence.sum() < 0.06


def test_confidence_falls_where_the_picture_disagrees() -> None:
    clip = toy_clip(3)
    wall = PlyGaussians(
        means=(clip.world_from_camera[:, :3, 3] + clip.world_from_camera[:, :3, 2])[:1],
        quats=torch.tensor([[1.0, 0, 0, 0]]), scales=torch.full((1, 3), 5.0), opacities=torch.tensor([0.99]),
        rgb=clip.rgb[0, :, 0, 0][None] / 0.99,
    )  # fmt: skip
    prior = splatting.GaussianSplatting(PriorOptions())
    prior.scene = wall
    depth = prior.observe(clip).depth
    shown = splat_scene.show(wall, clip.intrinsics, clip.world_from_camera[:1], 32, 32)
    off = (shown.rgb[0] - clip.rgb[0]).abs().mean(0)
    spoken = splat_scene.support(clip, torch.arange(1), shown.depth)
    torch.testing.assert_close(depth.confidence[0], shown.alpha[0] * torch.exp(-off / 0.1) * spoken[0])
    assert off[0, 0] < 0.01 < off.max()


def test_views_lie_between_frames_with_parallax_and_fade_with_distance() -> None:
    poses = torch.stack([torch.from_numpy(toy_room.pose(0, 0.4 * k, 0)) for k in range(2)]).repeat(4, 1, 1)
    clip = Clip(torch.zeros(8, 3, 8, 8), toy_clip().intrinsics, poses)
    frames, unvisited = splatting.unvisited_poses(clip, seed=3)
    assert frames.tolist() == [0, 4]
    along = unvisited[:, 1, 3]
    assert ((along > -0.3) & (along < 0.7)).all()
    assert torch.equal(unvisited, splatting.unvisited_poses(clip, seed=3)[1])
    turning = torch.stack([torch.from_numpy(toy_room.pose(0, 0, 0.3 * k)) for k in range(8)])
    assert len(splatting.unvisited_poses(clip._replace(world_from_camera=turning), 0)[0]) == 0
    at = torch.stack([torch.from_numpy(toy_room.pose(x, 0, yaw)) for x, yaw in ((0, 0), (0.5, 0), (0, 3.1))])
    expected = torch.tensor([1.0, torch.tensor(-0.5).exp(), 0.0])
    torch.testing.assert_close(splatting.familiarity(at, at[:1]), expected)


def test_a_ply_shows_what_its_gaussians_do(tmp_path: Path) -> None:
    clip = toy_clip(6)
    generator = torch.Generator().manual_seed(0)
    count = 60
    scene = PlyGaussians(
        means=torch.randn(count, 3, generator=generator), quats=torch.nn.functional.normalize(torch.randn(count, 4), dim=-1),
        scales=0.05 + 0.3 * torch.rand(count, 3, generator=generator),
        opacities=0.1 + 0.8 * torch.rand(count, generator=generator), rgb=torch.rand(count, 3, generator=generator),
    )  # fmt: skip
    write_ply(tmp_path / "scene.ply", *scene)
    given = open_prior("gaussian_splatting", PriorOptions(weights=str(tmp_path / "scene.ply"), batch_size=2)).observe(clip)
    Ks = clip.intrinsics.expand(1, 6, 3, 3)
    batched = [tensor[None] for tensor in scene]
    direct = rasterize(*batched, inverse_pose(clip.world_from_camera)[None], Ks, 32, 32, backend="torch")  # type: ignore
    alpha = direct.alphas[0, ..., 0]
    seen = alpha > 0.05
    expected = direct.depths[0, ..., 0][seen] / alpha[seen]
    torch.testing.assert_close(given.depth.values[seen], expected, atol=1e-3, rtol=1e-3)
    off = (direct.features[0].permute(0, 3, 1, 2) - clip.rgb).abs().mean(1)
    spoken = splat_scene.support(clip, torch.arange(6), given.depth.values)
    torch.testing.assert_close(given.depth.confidence, alpha * torch.exp(-off / 0.1) * spoken, atol=1e-3, rtol=1e-2)
    viewmats = inverse_pose(given.views.world_from_camera)[None]
    views = rasterize(*batched, viewmats, Ks[:, : viewmats.shape[1]], 32, 32, backend="torch")  # type: ignore
    torch.testing.assert_close(given.views.rgb, views.features[0].permute(0, 3, 1, 2).clamp(0, 1), atol=1e-3, rtol=1e-3)


def test_the_fingerprint_is_that_of_the_settings_and_the_scene(tmp_path: Path) -> None:
    def name(settings: FitSettings | None = None, **options: object) -> str:
        return splatting.GaussianSplatting(PriorOptions(**options), settings).fingerprint()  # type: ignore[arg-type]

    one = se3_exp(torch.zeros(1, 6))[:, :3, 3]
    for k, opacity in enumerate((0.5, 0.6)):
        quats, rest = torch.tensor([[1.0, 0, 0, 0]]), torch.ones(1, 3)
        write_ply(tmp_path / f"{k}.ply", one, quats, rest, torch.tensor([opacity]), rest)
    names = [name(), name(FitSettings(steps=5)), name(seed=1), *(name(weights=str(tmp_path / f"{k}.ply")) for k in (0, 1))]
    assert len(set(names)) == 5
    assert name() == names[0] and len(names[0]) == 16


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; expected a scene as PLY"):
        open_prior("gaussian_splatting", PriorOptions(weights=str(tmp_path / "absent.ply")))
    (tmp_path / "words.ply").write_text("no scene")
    with pytest.raises(UserError, match="not a PLY file"):
        open_prior("gaussian_splatting", PriorOptions(weights=str(tmp_path / "words.ply")))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="torch sees no CUDA device here"):
            open_prior("gaussian_splatting", PriorOptions(device="cuda"))
