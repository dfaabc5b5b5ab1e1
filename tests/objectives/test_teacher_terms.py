"""Teachers' likelihoods: against their formulas, as invariant as the conventions say, and turned down by their noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import back_project, camera_rays, project
from embodied_liftwm.geometry.normals import depth_to_normals
from embodied_liftwm.geometry.se3 import inverse_pose, relative_pose, se3_exp
from embodied_liftwm.objectives.observations import (
    ObservedDepth,
    ObservedMatches,
    ObservedNormals,
    ObservedPoints,
    ObservedViews,
    TeacherObservations,
)
from embodied_liftwm.objectives.teacher_noise import OUTLIERS, AddedNoise, Concentration, RadialLaplace
from embodied_liftwm.objectives.teacher_terms import (
    LEAST_ERROR,
    TEACHER_TERMS,
    TeacherDepthTerm,
    TeacherMatchesTerm,
    TeacherNormalsTerm,
    TeacherPointsTerm,
    TeacherTerm,
    TeacherViewsTerm,
    hypotheses,
)
from embodied_liftwm.objectives.terms import Lifted, Rollout

F, P, SIZE, STRIDE = 2, 24, 6, 2
LOG_PLANES = torch.linspace(math.log(0.5), math.log(8.0), P, dtype=torch.float64)
SPACING = float(LOG_PLANES[1] - LOG_PLANES[0])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def intrinsics(frames: int = F) -> Tensor:
    found = torch.tensor([[0.8 * SIZE, 0, SIZE / 2], [0, 0.8 * SIZE, SIZE / 2], [0, 0, 1]], dtype=torch.float64)
    return found.expand(frames, 3, 3)


def depth_of(log_belief: Tensor) -> Tensor:
    """Expected depth around the mode, as the encoder takes it."""
    number = torch.arange(P)[:, None, None]
    near = log_belief.exp() * ((number - log_belief.argmax(1, keepdim=True)).abs() <= 2)
    return ((near * LOG_PLANES[:, None, None]).sum(1) / near.sum(1)).exp()


def lifted(logits: Tensor, normal: Tensor | None = None) -> Lifted:
    log_belief = torch.log_softmax(logits, dim=1)
    nothing = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64)
    normal = torch.zeros(len(logits), 3, SIZE, SIZE, dtype=torch.float64) if normal is None else normal
    return Lifted(log_belief, depth_of(log_belief), nothing, nothing > 1, nothing[0], normal, intrinsics(len(logits)))


def around(depth: Tensor, width: float = 0.15) -> Tensor:
    """Logits of a belief about depths [F, h, w]."""
    return -0.5 * ((LOG_PLANES[:, None, None] - depth.log().unsqueeze(1)) / width).square()


def rollout(found: Lifted | None, batch_size: int = 1, **said: dict) -> Rollout:
    teachers = TeacherObservations(LOG_PLANES, STRIDE, **({kind: {} for kind in TeacherObservations._fields[2:]} | said))
    zeros = torch.zeros(batch_size, 3, 6, dtype=torch.float64)
    return Rollout(batch_size, found, None, zeros, zeros, zeros + 1.0, teachers=teachers)


def nats_and_slope(term: TeacherTerm, logits: Tensor, **said: dict) -> tuple[Tensor, Tensor]:
    logits = logits.detach().clone().requires_grad_()
    nats = term.log_prob(rollout(lifted(logits), **said))
    return nats.detach(), torch.autograd.grad(nats.sum(), logits)[0]


def depth_term(convention: str) -> TeacherDepthTerm:
    return TeacherDepthTerm({"a": convention}).double()


def room(seed: int = 0, frames: int = F) -> Tensor:
    """Depths of slanted surfaces, metres."""
    slopes = drawn(frames, 2, 1, 1, seed=seed) - 0.5
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, SIZE, dtype=torch.float64)] * 2, indexing="ij"))
    return 2.0 * torch.exp((slopes * grid).sum(1))


def test_planes_stand_for_themselves_or_near_the_depth_for_it() -> None:
    found = lifted(around(room()))
    stands = hypotheses(found, LOG_PLANES)
    for p, plane in enumerate(LOG_PLANES):
        near = (plane - found.depth.log()).abs() <= 2.5 * SPACING
        assert torch.equal(stands[:, p], torch.where(near, found.depth.log(), plane))


def test_depth_is_laplace_with_the_planes_summed_out() -> None:
    said, term = ObservedDepth(room(1).log(), drawn(F, SIZE, SIZE)), depth_term("metric")
    found, b = lifted(around(room())), term.noise["a"].log_scale.exp()
    error = (said.values.unsqueeze(1) - hypotheses(found, LOG_PLANES)).square().add(LEAST_ERROR**2).sqrt()
    inlier = (found.log_belief.exp() * torch.exp(-error / b) / (2 * b)).sum(1)
    expected = said.confidence * torch.log((1 - OUTLIERS) * inlier + OUTLIERS * math.exp(term.OUTLIER_NATS))
    torch.testing.assert_close(term.log_prob(rollout(found, depth={"a": said})), expected.mean((1, 2))[None])


def test_held_noise_is_a_plain_laplace_that_nothing_moves() -> None:
    said, term = ObservedDepth(room(1).log(), drawn(F, SIZE, SIZE)), TeacherDepthTerm({"a": "metric"}, held=True).double()
    found, b = lifted(around(room())), 0.06
    error = (said.values.unsqueeze(1) - hypotheses(found, LOG_PLANES)).square().add(LEAST_ERROR**2).sqrt()
    expected = said.confidence * torch.log((found.log_belief.exp() * torch.exp(-error / b) / (2 * b)).sum(1))
    torch.testing.assert_close(term.log_prob(rollout(found, depth={"a": said})), expected.mean((1, 2))[None], rtol=1e-6, atol=0)
    assert not any(p.requires_grad for name in TEACHER_TERMS for p in TEACHER_TERMS[name]({"a": "metric"}, True).parameters())
    assert all(p.requires_grad for name in TEACHER_TERMS for p in TEACHER_TERMS[name]({"a": "metric"}).parameters())


INVARIANT: dict[str, Callable[[Tensor], Tensor]] = {
    "scale_free": lambda log_depth: log_depth + math.log(3.0),
    "affine_inverse": lambda inverse: 2.0 * inverse + 0.1,
}


def said_of(depth: Tensor, convention: str) -> ObservedDepth:
    values = 1.0 / depth if convention == "affine_inverse" else depth.log()
    return ObservedDepth(values, 0.2 + 0.8 * drawn(F, SIZE, SIZE, seed=9))


@pytest.mark.parametrize("convention", ["scale_free", "affine_inverse"])
def test_depth_is_as_invariant_as_its_convention(convention: str) -> None:
    said = said_of(room(1) * (1.0 + 0.2 * drawn(F, SIZE, SIZE)), convention)
    term, logits = depth_term(convention), around(room())
    nats, slope = nats_and_slope(term, logits, depth={"a": said})
    moved = said._replace(values=INVARIANT[convention](said.values))
    again, same_slope = nats_and_slope(term, logits, depth={"a": moved})
    torch.testing.assert_close(again, nats)
    torch.testing.assert_close(same_slope, slope)
    assert float(slope.abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("convention", "change"),
    [
        ("metric", lambda log_depth: log_depth + math.log(1.1)),
        ("scale_free", lambda log_depth: (log_depth.exp() + 0.3).log()),
        ("scale_free", lambda log_depth: 1.1 * log_depth),
        ("affine_inverse", torch.square),
        ("affine_inverse", torch.neg),
    ],
)
def test_and_to_nothing_more(convention: str, change: Callable[[Tensor], Tensor]) -> None:
    said = said_of(room(), convention)
    term, logits = depth_term(convention), around(room())
    term.noise["a"].log_scale.data.fill_(math.log(0.05))
    nats, _ = nats_and_slope(term, logits, depth={"a": said})
    changed, _ = nats_and_slope(term, logits, depth={"a": said._replace(values=change(said.values))})
    assert float((changed - nats).max()) < -0.01


def test_a_depth_up_to_scale_and_shift_asks_for_none_of_its_own() -> None:
    """Moving the model's inverse depths by any scale and shift changes nothing: the slope along both is zero."""
    said = said_of(room(1) * (1.0 + 0.2 * drawn(F, SIZE, SIZE)), "affine_inverse")
    found = lifted(around(room()))
    change = torch.tensor([1.3, 0.05], dtype=torch.float64)
    moved = found._replace(depth=1.0 / (change[0] / found.depth + change[1]))
    errors = [TeacherDepthTerm.errors("affine_inverse", said, f, f.depth.log().unsqueeze(1))[0] for f in (found, moved)]
    torch.testing.assert_close(*errors)


def test_a_teacher_moves_depth_between_planes_and_from_afar() -> None:
    """Free logits, taught depths between planes, a belief that begins elsewhere; and the same with planes for themselves."""
    truth = room(2).clamp(0.8, 5.0)
    for begin in (truth * 1.05, torch.full_like(truth, 6.0)):
        logits = around(begin, 0.5).requires_grad_()
        term = depth_term("metric")
        optimizer = torch.optim.Adam([logits, *term.parameters()], 0.1)
        for _ in range(150):
            optimizer.zero_grad()
            (
                -term.log_prob(rollout(lifted(logits), depth={"a": ObservedDepth(truth.log(), torch.ones_like(truth))})).mean()
            ).backward()
            optimizer.step()
        error = (lifted(logits.detach()).depth.log() - truth.log()).abs()
        assert float(error.median()) < 0.05 * SPACING  # the nearest plane is a quarter of a spacing away, in the mean


@pytest.mark.parametrize("convention", ["metric", "scale_free", "affine_inverse"])
def test_noise_is_turned_down_by_its_own_scale_and_a_good_teacher_beside_it_is_not(convention: str) -> None:
    truth = room(3)
    good = said_of(truth, convention)
    noise = good._replace(values=good.values.flatten()[torch.randperm(good.values.numel())].view_as(good.values) * 1.5)
    term = TeacherDepthTerm({"good": convention, "noise": convention}).double()
    logits = around(truth * (1.0 + 0.1 * (drawn(F, SIZE, SIZE) - 0.5)))
    optimizer = torch.optim.Adam(term.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        (-term.log_prob(rollout(lifted(logits), depth={"good": good, "noise": noise})).mean()).backward()
        optimizer.step()
    scales = {name: float(module.log_scale.detach().exp()) for name, module in term.noise.items()}
    assert scales["good"] < 0.15 and scales["noise"] > 3.0 * scales["good"]

    def pull(said: ObservedDepth, scale: str) -> float:
        """Mean slope of the belief, with the noise that one of them has learned."""
        single = depth_term(convention)
        single.noise["a"].load_state_dict(term.noise[scale].state_dict())
        return float(nats_and_slope(single, logits, depth={"a": said})[1].abs().mean())

    assert pull(noise, "noise") < 0.5 * pull(noise, "good")  # than if it were believed as the good one is
    assert pull(noise, "noise") < 0.35 * pull(good, "good")


def test_what_a_model_can_explain_decides_and_not_the_noise_beside_it() -> None:
    """Log-depth is a plane of three numbers a frame, as little as a network can make of noise that is new in every frame."""
    truth = room(4)
    ones, grid = torch.ones_like(truth), torch.linspace(-1, 1, SIZE, dtype=torch.float64)
    basis = torch.stack([torch.ones(SIZE, SIZE), *torch.meshgrid(grid, grid, indexing="ij")])
    wrong = math.log(2.0) + 2.0 * (drawn(F, SIZE, SIZE, seed=5) - 0.5)
    good, noise = ObservedDepth(truth.log(), ones), ObservedDepth(wrong, ones)
    planes = torch.tensor([[math.log(3.0), 0.0, 0.0]] * F, dtype=torch.float64, requires_grad=True)
    term = TeacherDepthTerm({"good": "metric", "noise": "metric"}).double()
    optimizer = torch.optim.Adam([planes, *term.parameters()], 0.05)
    for _ in range(100):
        found = lifted(around(torch.einsum("fi,ihw->fhw", planes, basis).exp()))
        optimizer.zero_grad()
        (-term.log_prob(rollout(found, depth={"good": good, "noise": noise})).mean()).backward()
        optimizer.step()
    assert float((found.depth / truth).log().abs().mean().detach()) < 0.03


def test_independent_teachers_add_and_silent_ones_say_nothing() -> None:
    said, term = said_of(room(1), "metric"), TeacherDepthTerm({"a": "metric", "my.pkg:b": "metric"}).double()
    alone, both = (
        term.log_prob(rollout(lifted(around(room())), depth=d)) for d in ({"a": said}, {"a": said, "my.pkg:b": said})
    )
    torch.testing.assert_close(both, 2.0 * alone)
    silent = said._replace(confidence=torch.zeros_like(said.confidence))
    nats, slope = nats_and_slope(depth_term("affine_inverse"), around(room()), depth={"a": silent})
    assert float(nats.abs().max()) == 0.0 and float(slope.abs().max()) == 0.0
    assert TeacherDepthTerm({"a": "metric"}).log_prob(rollout(None, depth={"a": said})).tolist() == [[0.0]]


def test_concentration_is_a_density_on_the_sphere() -> None:
    module = Concentration(3.0).double()
    cosine = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    assert float(torch.trapezoid(module.log_prob(cosine).exp() * 2 * math.pi, cosine).detach()) == pytest.approx(1.0, abs=1e-6)
    k = 3.0
    expected = math.log(k / (4 * math.pi * math.sinh(k))) + k * 0.3
    assert float(module.log_prob(torch.tensor(0.3).double()).detach()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("dimensions", "shell"), [(1, lambda r: 2 + 0 * r), (2, lambda r: 2 * math.pi * r), (3, lambda r: 4 * math.pi * r**2)]
)
def test_radial_laplace_is_a_density(dimensions: int, shell: Callable[[Tensor], Tensor]) -> None:
    radius = torch.linspace(0, 30, 200001, dtype=torch.float64)
    density = RadialLaplace(0.7, dimensions).double().log_prob(radius).exp()
    assert float(torch.trapezoid(density * shell(radius), radius).detach()) == pytest.approx(1.0, abs=1e-5)


def test_normals_are_found_by_encoder_and_depth_and_know_no_scale() -> None:
    depth = room(6)
    truth = depth_to_normals(depth, intrinsics())
    said, term = ObservedNormals(truth, torch.ones_like(depth)), TeacherNormalsTerm({"a": ""}).double()
    logits = around(depth).requires_grad_()
    rough = torch.nn.functional.normalize(truth + 0.3 * (drawn(F, 3, SIZE, SIZE) - 0.5), dim=1)

    def nats(depth: Tensor, normal: Tensor) -> float:
        found = lifted(logits, normal)._replace(depth=depth)
        return float(term.log_prob(rollout(found, normals={"a": said})).sum().detach())

    assert nats(depth, truth) > nats(depth, rough) + 0.01
    assert nats(depth, truth) > nats(depth * (1.0 + 0.1 * drawn(F, SIZE, SIZE)), truth) + 0.1
    assert nats(3.0 * depth, truth) == pytest.approx(nats(depth, truth))


@pytest.mark.parametrize("measured", ["a", "b"])
def test_normals_ask_nothing_of_depth_where_their_own_teacher_gave_depths(measured: str) -> None:
    depth = room(6)
    normals = ObservedNormals(depth_to_normals(depth, intrinsics()), torch.ones_like(depth))
    bent = (depth * (1.0 + 0.1 * drawn(F, SIZE, SIZE))).requires_grad_()
    normal = torch.nn.functional.normalize(normals.values + 0.3 * (drawn(F, 3, SIZE, SIZE) - 0.5), dim=1).requires_grad_()
    term = TeacherNormalsTerm({"a": ""}).double()
    found = lifted(around(depth), normal)._replace(depth=bent)
    said = {"normals": {"a": normals}, "depth": {measured: said_of(depth, "metric")}}
    of_depth, of_normal = torch.autograd.grad(
        term.log_prob(rollout(found, **said)).sum(), (bent, normal), allow_unused=True, materialize_grads=True
    )
    assert float(of_normal.abs().max()) > 0.0
    assert (float(of_depth.abs().max()) > 0.0) == (measured == "b")


def seen_from_elsewhere() -> tuple[Tensor, Tensor]:
    """A true depth [F, h, w], and the poses reference_from_frame [F, 4, 4]; float64."""
    poses = se3_exp(torch.tensor([[0.4, -0.1, 0.1, 0.05, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64))
    return room(7), poses


def said_points(factor: float = 1.0) -> tuple[Tensor, ObservedPoints]:
    depth, poses = seen_from_elsewhere()
    return depth, ObservedPoints(factor * back_project(depth, intrinsics(), poses), torch.ones_like(depth), poses)


def test_points_compare_in_the_frame_of_the_reference() -> None:
    depth, said = said_points()
    noisy = said._replace(points=said.points + 0.2 * (drawn(*said.points.shape) - 0.5))
    log_depths = (depth * 1.2).log().unsqueeze(1)
    found, _ = TeacherPointsTerm.errors("metric", noisy, lifted(around(depth)), log_depths)
    rays = camera_rays(intrinsics(), SIZE, SIZE)
    for f in range(F):
        for v in range(0, SIZE, 3):
            rotation, centre = said.reference_from_frame[f, :3, :3], said.reference_from_frame[f, :3, 3]
            model = rotation @ (1.2 * depth[f, v, 1] * rays[f, v, 1]) + centre
            expected = (noisy.points[f, v, 1] - model).norm() / (noisy.points[f, v, 1] - centre).norm()
            assert float(found[f, 0, v, 1]) == pytest.approx(math.hypot(float(expected), LEAST_ERROR))


@pytest.mark.parametrize(("convention", "same"), [("metric", False), ("scale_free", True)])
def test_pointmaps_are_as_invariant_as_their_convention(convention: str, same: bool) -> None:
    depth, said = said_points()
    noisy = said._replace(points=said.points * (1.0 + 0.05 * drawn(*said.points.shape)))
    term, logits = TeacherPointsTerm({"a": convention}).double(), around(depth)
    nats, slope = nats_and_slope(term, logits, points={"a": noisy})
    tripled, its_slope = nats_and_slope(term, logits, points={"a": noisy._replace(points=3.0 * noisy.points)})
    assert torch.allclose(tripled, nats, atol=1e-9) == same and torch.allclose(its_slope, slope, atol=1e-9) == same
    shifted, _ = nats_and_slope(term, logits, points={"a": noisy._replace(points=noisy.points + 0.3)})
    assert not torch.allclose(shifted, nats, atol=1e-3)


def matched(turn_only: bool = False) -> tuple[Tensor, ObservedMatches]:
    """True depth of one frame's cells, constant, and the matches of five pixels with another frame, from the true geometry."""
    depth = torch.full((F, SIZE, SIZE), 2.2, dtype=torch.float64)
    motion = torch.tensor([[0.0 if turn_only else 0.5, 0.0, 0.0, 0.0, 0.1, 0.0]], dtype=torch.float64)
    world_from_a, world_from_b = torch.eye(4).double()[None], se3_exp(motion)
    pixels = torch.tensor([[[3.0, 5.0], [7.5, 2.5], [6.2, 6.9], [9.0, 9.0], [2.0, 10.0]]], dtype=torch.float64)
    full = intrinsics(1) * torch.tensor([STRIDE, STRIDE, 1.0], dtype=torch.float64)[:, None]
    rays = torch.cat([(pixels - full[0, :2, 2]) / full[0, 0, 0], torch.ones(1, 5, 1)], dim=-1)
    partners, _ = project(2.2 * rays, full, inverse_pose(world_from_b))
    moved = relative_pose(world_from_b, world_from_a).expand(1, 5, 4, 4)
    return depth, ObservedMatches(torch.tensor([[0, 1, 0, 1, 1]]), pixels, partners, torch.ones(1, 5).double(), moved)


def test_a_match_lands_on_its_partner_at_the_true_depth_alone() -> None:
    depth, said = matched()
    term = TeacherMatchesTerm({"a": ""}).double()
    teachers = rollout(None).teachers
    right = TeacherMatchesTerm.errors(said, lifted(around(depth))._replace(depth=depth), teachers)[1]
    assert float(right.min(1).values.max()) < 0.011 and float(right.max()) > 1.0
    nats = [float(term.log_prob(rollout(lifted(around(depth * k)), matches={"a": said})).detach()) for k in (0.7, 1.0, 1.4)]
    assert nats[1] > max(nats[0], nats[2]) + 0.01
    half = said._replace(confidence=said.confidence * torch.tensor([1.0, 0, 1.0, 0, 0.5]))
    assert float(term.log_prob(rollout(lifted(around(depth)), matches={"a": half})).detach()) < 0


def test_a_match_without_parallax_says_nothing_of_depth() -> None:
    depth, said = matched(turn_only=True)
    _, slope = nats_and_slope(TeacherMatchesTerm({"a": ""}).double(), around(depth), matches={"a": said})
    _, with_parallax = nats_and_slope(TeacherMatchesTerm({"a": ""}).double(), around(depth), matches={"a": matched()[1]})
    assert float(slope.abs().max()) < 1e-9 < 1e-3 < float(with_parallax.abs().max())


def test_views_are_gaussian_with_both_noises_and_teach_no_doubt() -> None:
    target, rgb, scale, sure = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1), 0.1 + drawn(2, 4, 4), drawn(2, 4, 4, seed=3)
    rgb.requires_grad_(), scale.requires_grad_()
    term = TeacherViewsTerm({"a": ""}).double()
    found = term.log_prob(rollout(None, views={"a": ObservedViews(target, sure, rgb, scale)}))
    normal = torch.distributions.Normal(rgb, (scale.square() + 0.01).sqrt().unsqueeze(1))
    torch.testing.assert_close(found, (sure.unsqueeze(1) * normal.log_prob(target)).mean((1, 2, 3))[None])
    found.sum().backward()
    assert scale.grad is None and rgb.grad is not None and float(rgb.grad.abs().max()) > 0
    assert isinstance(term.noise["a"], AddedNoise) and float(term.noise["a"].log_scale.grad.abs()) > 0


def observed(name: str, convention: str) -> dict:
    if name == "teacher_depth":
        return {"depth": {"a": said_of(room(1) * (1.0 + 0.2 * drawn(F, SIZE, SIZE)), convention)}}
    if name == "teacher_points":
        return {"points": {"a": said_points()[1]}}
    if name == "teacher_matches":
        return {"matches": {"a": matched()[1]}}
    return {"normals": {"a": ObservedNormals(depth_to_normals(room(6), intrinsics()), drawn(F, SIZE, SIZE))}}


@pytest.mark.parametrize(
    ("name", "convention"),
    [
        ("teacher_depth", "metric"),
        ("teacher_depth", "scale_free"),
        ("teacher_depth", "affine_inverse"),
        ("teacher_points", "metric"),
        ("teacher_points", "scale_free"),
        ("teacher_matches", ""),
        ("teacher_normals", ""),
    ],
)
def test_gradients_in_belief_depth_normals_and_noise(name: str, convention: str) -> None:
    term = TEACHER_TERMS[name]({"a": convention}).double()
    found = lifted(around(room(2)), torch.nn.functional.normalize(drawn(F, 3, SIZE, SIZE) - 0.5, dim=1))
    held = ("depth",) if convention in ("scale_free", "affine_inverse") else ()  # the alignment, or its weights, are held
    fields = [field for field in ("log_belief", "depth", "normal") if field not in held]
    noise = dict(term.named_parameters())
    term.forward = term.log_prob  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(0)
    ways = [torch.randn(getattr(found, f).shape, generator=generator, dtype=torch.float64) for f in fields]

    def nats(*given: Tensor) -> Tensor:
        """Along one direction of each field, so that there are few derivatives."""
        changed = {f: getattr(found, f) + step * way for f, step, way in zip(fields, given, ways, strict=False)}
        scales = dict(zip(noise, given[len(fields) :], strict=True))
        return torch.func.functional_call(term, scales, (rollout(found._replace(**changed), **observed(name, convention)),))

    given = [torch.zeros((), dtype=torch.float64) for _ in fields] + [value.detach().clone() for value in noise.values()]
    assert torch.autograd.gradcheck(nats, tuple(value.requires_grad_() for value in given))
