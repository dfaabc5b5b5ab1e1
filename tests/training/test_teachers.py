"""Teachers in training: what a window takes of their caches, that runs resume, what is refused, and that a good one helps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.data import TrainingReader, sample_windows
from embodied_liftwm.data.mixture import Mixture
from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import back_project, project, transform
from embodied_liftwm.geometry.normals import depth_to_normals
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.priors.cache import create_cache
from embodied_liftwm.priors.contract import (
    DepthMaps,
    Matches,
    NormalMaps,
    NovelViews,
    PointMaps,
    PriorOptions,
    PseudoObservations,
)
from embodied_liftwm.training.batches import Windows, load_parts, to_device
from embodied_liftwm.training.rollout import roll_out
from embodied_liftwm.training.teacher_windows import MATCHES, VIEWS, as_number, map_observed
from embodied_liftwm.training.teachers import Teachers, open_teachers
from embodied_liftwm.training.trainer import Trainer
from tests import toy_room
from tests.training.small import SMALL, config, same, weights

pytestmark = pytest.mark.usefixtures("whole_fit")  # how far a teacher helps depends on the clipped gradient of all terms
EPISODES, STEPS, SIZE = 3, 12, 32
TERMS = ("frame", "multi_view", "ego_motion")
TAUGHT = ("teacher_depth", "teacher_normals", "teacher_points", "teacher_matches", "teacher_views")


class Scene:
    """The toy room of one episode, as tensors."""

    def __init__(self, number: int) -> None:
        found = toy_room.episode(number, STEPS, SIZE)
        assert found.truth is not None
        self.depth = torch.from_numpy(found.truth.depth.astype(np.float32))
        self.poses, self.intrinsics = torch.from_numpy(found.world_from_camera), torch.from_numpy(found.intrinsics)
        self.frames, self.number = torch.arange(len(self.depth)), number
        self.ones = torch.ones_like(self.depth)

    def depth_maps(self) -> DepthMaps:
        """True, up to scale and shift."""
        rng = torch.Generator().manual_seed(self.number)
        scale, shift = (torch.rand(len(self.depth), 1, 1, generator=rng) + 0.5 for _ in range(2))
        return DepthMaps(scale / self.depth + shift, self.ones, self.frames, "affine_inverse")

    def true_depth(self) -> DepthMaps:
        return DepthMaps(self.depth, self.ones, self.frames, "metric")

    def noise(self) -> DepthMaps:
        """The same for the pixels of a cell, else independent."""
        drawn = torch.rand(len(self.depth), SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(9 + self.number))
        values = 0.5 + 4.0 * drawn.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        return DepthMaps(values, self.ones, self.frames, "scale_free")

    def everything(self) -> PseudoObservations:
        """Depth of all frames, normals and points of even ones alone, matches of neighbours, one view a frame."""
        even = self.frames[::2]
        rays = self.intrinsics.expand(len(even), 3, 3)
        world = back_project(self.depth[even], rays, self.poses[even])
        references = (even - 1).clamp_min(0)
        points = transform(inverse_pose(self.poses[references]), world)
        pixel = torch.tensor([10.5, 15.5])
        first = back_project(self.depth[:-1], self.intrinsics.expand(STEPS, 3, 3), self.poses[:-1])[:, 15, 10][:, None]
        partner, _ = project(first, self.intrinsics.expand(STEPS, 3, 3), inverse_pose(self.poses[1:]))
        views = [toy_room.render(pose.numpy(), SIZE, self.number)[0] for pose in self.poses]
        return PseudoObservations(
            depth=self.depth_maps(),
            normals=NormalMaps(depth_to_normals(self.depth[even], rays), self.ones[even], even),
            points=PointMaps(points, self.ones[even], even.clone(), references, "metric"),
            matches=Matches(
                torch.stack([pixel.expand(STEPS, 2), partner[:, 0]], dim=1),
                torch.ones(STEPS),
                torch.stack([self.frames[:-1], self.frames[1:]], dim=1),
            ),
            views=NovelViews(
                torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255, self.ones, self.poses, self.frames.clone()
            ),
        )


def observed(data: Path, name: str, say: Callable[[Scene], PseudoObservations], episodes: int = EPISODES) -> str:
    """Write what a prior would say of each episode; returns the name it goes by."""
    cache = create_cache(TrainingReader(data), name, "0" * 16, PriorOptions(), "MIT")
    for episode in range(episodes):
        cache.write(episode, say(Scene(episode)))
    return name


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with three priors: one that is right in everything, one in depth alone, and one of noise."""
    data = toy_room.write_dataset(tmp_path_factory.mktemp("taught") / "data", EPISODES, STEPS, SIZE)
    observed(data, "toy:all", Scene.everything)
    observed(data, "toy:good", lambda scene: PseudoObservations(depth=scene.depth_maps()))
    observed(data, "toy:noise", lambda scene: PseudoObservations(depth=scene.noise()))
    return data


def with_teachers(data: Path, run: Path, *priors: str, terms: tuple[str, ...] = ("teacher_depth",), **changes) -> TrainConfig:
    return config(data, run, priors=priors, terms=TERMS + terms, **changes)


def test_a_window_takes_what_was_said_of_its_frames(taught: Path, tmp_path: Path) -> None:
    settings = with_teachers(taught, tmp_path, "toy:all", terms=TAUGHT, batch_size=4)
    reader, (teachers,) = TrainingReader(taught), open_teachers(settings)
    assert teachers is not None
    stride, cells = settings.model.stride, SIZE // settings.model.stride
    for step in range(3):
        batch = sample_windows(reader, settings, step)
        observed = map_observed(teachers.read(reader, batch), as_number)
        said = {kind: of["toy:all"]._asdict() for kind, of in observed.items()}
        assert said["depth"]["values"].shape == (4, 3, cells, cells) and said["views"]["rgb"].shape == (4, VIEWS, 3, SIZE, SIZE)
        assert said["matches"]["confidence"].shape == (4, 3 * MATCHES)
        for row, episode in enumerate(batch.episode):
            scene, frames = Scene(int(episode)), torch.from_numpy(batch.context_index[row])
            inverse = torch.nn.functional.avg_pool2d(scene.depth_maps().values[frames], stride)
            torch.testing.assert_close(said["depth"]["values"][row], inverse, rtol=2e-3, atol=2e-3)
            even = frames % 2 == 0
            assert torch.equal(said["normals"]["confidence"][row].amax((1, 2)) > 0, even)
            assert torch.equal(said["points"]["confidence"][row].amax((1, 2)) > 0, even)
            _check_points(scene, frames[even], {name: x[row][even] for name, x in said["points"].items()})
            _check_matches(scene, frames, {name: x[row] for name, x in said["matches"].items()})
            for pose, rgb in zip(said["views"]["world_from_camera"][row], said["views"]["rgb"][row], strict=True):
                true = toy_room.render(pose.numpy(), SIZE, int(episode))[0]
                assert float((rgb - torch.from_numpy(true).permute(2, 0, 1) / 255).abs().max()) < 2 / 255


def _check_points(scene: Scene, frames: Tensor, said: dict[str, Tensor]) -> None:
    """Points of cells are, moved to the world, those of the true depth."""
    for k, frame in enumerate(frames):
        world_from_reference = scene.poses[frame] @ inverse_pose(said["reference_from_frame"][k])
        world = back_project(scene.depth[frame][None], scene.intrinsics[None], scene.poses[frame][None])
        pooled = torch.nn.functional.avg_pool2d(world.movedim(-1, 1), 4).movedim(1, -1)
        torch.testing.assert_close(transform(world_from_reference[None], said["points"][k][None]), pooled, atol=0.02, rtol=0.01)


def _check_matches(scene: Scene, frames: Tensor, said: dict[str, Tensor]) -> None:
    """The matched pixels, lifted by the true depth, land on their partners; as many as have an end in the context."""
    there = said["confidence"] > 0
    in_context = np.isin([[f, f + 1] for f in range(STEPS)], frames.numpy())
    assert int(there.sum()) == int(in_context.sum())
    for m in there.nonzero()[:, 0]:
        pixel, frame = said["pixels"][m], frames[said["frame"][m]]
        if not bool((pixel == torch.tensor([10.5, 15.5])).all()):
            continue  # the other way round: not a pixel's centre
        point = back_project(scene.depth[frame][None], scene.intrinsics[None], torch.eye(4)[None])[0, 15, 10]
        found, _ = project(point.view(1, 1, 3), scene.intrinsics[None], said["partner_from_frame"][m][None])
        torch.testing.assert_close(found[0, 0], said["partners"][m], atol=0.02, rtol=0)


def tensors(windows: Windows) -> list[Tensor]:
    """All of them, those of the windows first."""
    found: list[Tensor] = []
    windows.map(lambda t: (found.append(t), t)[1])
    return found


def test_what_is_read_depends_on_the_window_alone(taught: Path, tmp_path: Path) -> None:
    settings = with_teachers(taught, tmp_path, "toy:all", "toy:good", terms=TAUGHT, batch_size=4)
    (dataset,) = Mixture.open(settings).datasets
    (teachers,), (forgetful,) = open_teachers(settings), open_teachers(settings)
    assert teachers is not None and forgetful is not None
    forgetful._kept_bytes = 0
    device = torch.device("cpu")
    for step in (2, 0, 1):
        (whole,) = load_parts(dataset, settings, step, range(4), device, teachers)
        (some,) = load_parts(dataset, settings, step, range(1, 3), device, forgetful)
        assert [*some.observed] == [*whole.observed]
        assert all(torch.equal(a, b[1:3]) for a, b in zip(tensors(some), tensors(whole), strict=True))
        plain = load_parts(dataset, settings, step, range(4), device)[0]
        assert not plain.observed
        assert all(torch.equal(a, b) for a, b in zip(tensors(plain), tensors(whole), strict=False))
    assert len(forgetful._kept) == 1 and len(teachers._kept) == 2 * EPISODES


WITHOUT_DEPTH = tuple(term for term in TAUGHT if term != "teacher_depth")
"""Terms with which normals ask something of depth: their teacher's own depths are not taken."""


@pytest.mark.parametrize("taking", [TAUGHT, WITHOUT_DEPTH])
def test_true_teachers_are_likely_under_the_true_depth(taught: Path, tmp_path: Path, taking: tuple[str, ...]) -> None:
    """Every term, fed through the whole path, prefers the true depths of its windows to wrong ones."""
    settings = with_teachers(taught, tmp_path, "toy:all", terms=taking)
    trainer = Trainer(settings)
    (part,) = trainer.load(1)
    rollout = roll_out(trainer.model, to_device(part, "cpu"), only_geometry=True)
    assert rollout.lifted is not None and rollout.teachers is not None
    planes = rollout.teachers.log_planes
    true = torch.cat(
        [Scene(int(e)).depth[frames] for e, frames in zip(part.batch.episode, part.batch.context_index, strict=True)]
    )
    log_depth = torch.nn.functional.avg_pool2d(true.log(), settings.model.stride)
    tilt = torch.linspace(-0.3, 0.3, log_depth.shape[-1])
    found = {}
    for name, log in {"true": log_depth, "wrong": log_depth + tilt + 0.5}.items():
        belief = torch.log_softmax(-0.5 * ((planes[:, None, None] - log.unsqueeze(1)) / 0.1).square(), dim=1)
        lifted = rollout.lifted._replace(log_belief=belief, depth=log.exp())
        terms = trainer.learner.objective(rollout._replace(lifted=lifted)).log_likelihoods
        found[name] = {term: float(nats.detach()) for term, nats in terms.items()}
    for term in taking:
        if term == "teacher_views" or (term == "teacher_normals" and "teacher_depth" in taking):
            assert found["true"][term] == found["wrong"][term], term  # they ask nothing of depths
        else:
            assert found["true"][term] > found["wrong"][term] + 5e-3, term


def test_every_term_reaches_the_weights_and_its_noise(taught: Path, tmp_path: Path) -> None:
    trainer = Trainer(with_teachers(taught, tmp_path, "toy:all", "toy:noise", terms=TAUGHT))
    metrics = trainer.learner.differentiate(trainer.load(0), only_geometry=False)
    assert all(math.isfinite(metrics[term]) and metrics[term] != 0 for term in TAUGHT)
    unused = "warp_noise", "teacher_normals.noise.toy:all.slope"  # whose depths say it
    for name, parameter in trainer.learner.objective.named_parameters():
        assert (parameter.grad is None) == any(part in name for part in unused), name
    normals_alone = Trainer(with_teachers(taught, tmp_path / "normals", "toy:all", terms=WITHOUT_DEPTH))
    normals_alone.learner.differentiate(normals_alone.load(0), only_geometry=False)
    for name, parameter in normals_alone.learner.objective.named_parameters():
        assert (parameter.grad is None) == ("warp_noise" in name), name
    names = [name for name, _ in trainer.learner.objective.named_parameters() if "teacher_depth" in name]
    assert len(names) == 2  # of each teacher its own


def test_resumed_training_with_teachers_ends_at_the_same_weights(taught: Path, tmp_path: Path) -> None:
    settings = with_teachers(taught, tmp_path / "whole", "toy:all", "toy:noise", terms=TAUGHT)
    Trainer(settings).fit()
    broken = replace(settings, run=str(tmp_path / "broken"))
    trainer = Trainer(broken)
    for _ in range(2):
        trainer.advance()
    trainer.save()
    trainer.advance()  # a step that a kill loses
    Trainer(broken).fit()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    with pytest.raises(UserError, match=r"trained with others than terms=.* priors=\['toy:all'\]"):
        Trainer(replace(broken, priors=("toy:all",)))


def test_terms_and_priors_must_go_together(taught: Path, tmp_path: Path) -> None:
    def refused(match: str, *priors: str, terms: tuple[str, ...] = ("teacher_depth",)) -> None:
        with pytest.raises(UserError, match=match):
            Trainer(with_teachers(taught, tmp_path, *priors, terms=terms))

    refused(r"teacher_depth needs a prior that gives depth, and of priors=\[\] there is none")
    refused("teacher_views needs a prior that gives views.*toy:good gives depth", "toy:good", terms=("teacher_views",))
    refused(r"no term takes what toy:good gives \(depth\); add one to terms: teacher_depth", "toy:good", terms=())
    refused(r"no term takes what toy:good gives", "toy:all", "toy:good", terms=("teacher_views",))
    refused("expected distinct names", "toy:good", "toy:good")
    refused("prior mvs has not observed .*run `liftwm priors run name=mvs", "mvs")


def test_an_episode_in_another_convention_is_refused(taught: Path) -> None:
    class Changing:
        def read(self, episode: int) -> PseudoObservations:
            depth = Scene(0).depth_maps()
            return PseudoObservations(depth=replace(depth, convention="metric") if episode else depth)

    teachers = Teachers({"a": Changing()}, ("teacher_depth",), 4)
    with pytest.raises(UserError, match="prior a: depth of episode 1 is metric, that of episode 0 is affine_inverse"):
        teachers._episode("a", 1)


def depth_error(trainer: Trainer) -> float:
    """Mean absolute log-error of the lifted depths over a few windows."""
    errors = []
    for step in range(1000, 1006):
        (part,) = trainer.load(step)
        with torch.no_grad():
            lifted = roll_out(trainer.model, to_device(part, "cpu"), only_geometry=True).lifted
        true = torch.cat(
            [Scene(int(e)).depth[frames] for e, frames in zip(part.batch.episode, part.batch.context_index, strict=True)]
        )
        assert lifted is not None
        cells = torch.nn.functional.avg_pool2d(true.log(), trainer.config.model.stride)
        errors.append((lifted.depth.log() - cells).abs().mean())
    return float(torch.stack(errors).mean())


def test_a_good_teacher_helps_and_noise_is_turned_down(tmp_path: Path) -> None:
    episodes = 8  # enough frames that a few steps cannot learn noise by heart
    data = toy_room.write_dataset(tmp_path / "data", episodes, STEPS, SIZE)
    true = observed(data, "toy:good", lambda scene: PseudoObservations(depth=scene.true_depth()), episodes)
    noisy = observed(data, "toy:noise", lambda scene: PseudoObservations(depth=scene.noise()), episodes)
    model = replace(SMALL, stride=2, width=16, planes=24)

    def trained(*priors: str) -> Trainer:
        terms = ("multi_view", "smoothness", "ego_motion", *(["teacher_depth"] if priors else []))
        settings = config(data, tmp_path / "-".join(("run", *priors)), steps=60, save_every=1000, batch_size=4)
        trainer = Trainer(replace(settings, terms=terms, priors=priors, model=model, sources=10, geometry_first=1.0))
        trainer.fit()
        return trainer

    alone, good, noise = trained(), trained(true), trained(noisy)
    error = {name: depth_error(t) for name, t in {"alone": alone, "good": good, "noise": noise}.items()}
    scale = [float(t.learner.objective.teacher_noise()[0].detach().exp()) for t in (good, noise)]
    assert error["good"] < 0.95 * error["alone"], error
    assert error["noise"] < 1.08 * error["alone"], error
    assert scale[1] > 2.5 * scale[0], scale
