"""Fisher information of depth: automatic derivatives against closed forms, and the rank of each term."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.experiments.gap.information import (
    NOTHING,
    Measurement,
    colours,
    consistency,
    frames,
    information,
    knowledge,
    normals,
    pseudo_depth,
)
from embodied_liftwm.experiments.gap.toy import bumpy, partners, support_rows, term_rows
from embodied_liftwm.geometry.cameras import camera_rays
from embodied_liftwm.geometry.se3 import make_pose, so3_exp

POINTS = bumpy()
COUNT = POINTS.depth.numel()


def rotations() -> Tensor:
    """Five cameras that only turned, in all three axes. [5, 4, 4]"""
    torch.manual_seed(0)
    return make_pose(so3_exp(0.3 * torch.randn(5, 3, dtype=torch.float64)), torch.zeros(5, 3, dtype=torch.float64))


def sideways(baseline_m: float) -> Tensor:
    return make_pose(torch.eye(3, dtype=torch.float64)[None], torch.tensor([[baseline_m, 0.0, 0.0]], dtype=torch.float64))


def pixel_slopes(poses: Tensor) -> np.ndarray:
    """d(pixel) / d(log-depth) by hand: f z (r'_x t_z - t_x r'_z) / p_z^2 and alike, r' = R r, p = z r' + t. [S, P, 2]

    0 where the point is out of view.
    """
    focal = float(POINTS.intrinsics[0, 0, 0])
    rays = camera_rays(POINTS.intrinsics, *POINTS.depth.shape).reshape(-1, 3).numpy()
    depth, found = POINTS.depth.reshape(-1, 1).numpy(), []
    for pose in poses.numpy():
        turned, shift = rays @ pose[:3, :3], -pose[:3, :3].T @ pose[:3, 3]
        seen = depth * turned + shift
        slope = turned[:, :2] * shift[2] - shift[:2] * turned[:, 2:]
        in_view = (np.abs(focal * seen[:, :2] / seen[:, 2:]) <= 3.0).all(1, keepdims=True)
        found.append(in_view * focal * depth * slope / seen[:, 2:] ** 2)
    return np.stack(found)


def test_pure_rotation_tells_nothing_of_depth() -> None:
    found = information([frames(POINTS, rotations(), 0.1)], POINTS.log_depth)
    assert float(found.abs().max()) < 1e-20  # rounding, where one pixel a metre would be of the order of 100
    assert knowledge(found).rank == 0


def test_under_rotation_every_depth_predicts_the_same_frames_however_far_off() -> None:
    torch.manual_seed(1)
    predict, nothing = frames(POINTS, rotations(), 1.0)
    for _ in range(3):
        other = POINTS.log_depth + torch.randn(COUNT, dtype=torch.float64)
        torch.testing.assert_close(predict(other, nothing), predict(POINTS.log_depth, nothing), rtol=0, atol=1e-12)


def test_information_is_the_closed_form_for_any_motion() -> None:
    poses = torch.cat([partners(POINTS, 0.4), sideways(0.2)])
    poses[0, 1, 3], poses[1, 2, 3] = 0.15, 0.1
    slopes = pixel_slopes(poses)
    assert (slopes != 0).any(2).mean() > 0.7  # mostly in view
    expected = (slopes**2).sum((0, 2)) / 0.3**2
    found = information([frames(POINTS, poses, 0.3)], POINTS.log_depth)
    torch.testing.assert_close(found, torch.diag(torch.from_numpy(expected)), rtol=1e-10, atol=1e-12)


def test_information_grows_with_the_square_of_baseline_over_depth() -> None:
    focal = float(POINTS.intrinsics[0, 0, 0])
    for baseline in (0.01, 0.1, 0.2):
        inside = torch.from_numpy(pixel_slopes(sideways(baseline))[0, :, 0] != 0)
        found = information([frames(POINTS, sideways(baseline), 0.5)], POINTS.log_depth).diagonal()
        expected = (focal * baseline / (0.5 * POINTS.log_depth.exp())).square()
        assert int(inside.sum()) >= 30
        torch.testing.assert_close(found[inside], expected[inside])
        assert float(found[~inside].abs().sum()) == 0.0


def test_colours_know_depth_through_the_slope_of_the_image() -> None:
    ramp = torch.arange(6.0, dtype=torch.float64).expand(1, 1, 6, 6) * 0.7  # linear: bilinear sampling is exact
    assert knowledge(information([colours(POINTS, rotations(), ramp.expand(5, 1, 6, 6), 0.1)], POINTS.log_depth)).rank == 0
    found = information([colours(POINTS, sideways(0.2), ramp, 0.1)], POINTS.log_depth).diagonal().view(6, 6)
    expected = torch.from_numpy((0.7 * pixel_slopes(sideways(0.2))[0, :, 0] / 0.1) ** 2).view(6, 6)
    torch.testing.assert_close(found[:, 1:], expected[:, 1:])  # the first column falls off the image or on its border
    upright = ramp.mT.contiguous()  # slopes across the motion show none of it: the aperture problem
    assert knowledge(information([colours(POINTS, sideways(0.2), upright, 0.1)], POINTS.log_depth)).rank == 0


def test_a_free_nuisance_costs_what_the_inverse_of_the_joint_information_says() -> None:
    torch.manual_seed(2)
    about_depth, about_nuisance = torch.randn(9, 4).double(), torch.randn(9, 2).double()
    measured = Measurement(lambda x, n: about_depth @ x + about_nuisance @ n, torch.zeros(2).double())
    joint = torch.cat([about_depth, about_nuisance], dim=1)
    covariance = torch.linalg.inv(joint.T @ joint)[:4, :4]
    torch.testing.assert_close(information([measured], torch.zeros(4).double()), torch.linalg.inv(covariance))


def span(*directions: Tensor) -> Tensor:
    """Projector onto the span of directions [P]."""
    basis = torch.linalg.qr(torch.stack(directions, dim=1)).Q
    return basis @ basis.T


ONES, DEPTHS = torch.ones(COUNT).double(), POINTS.log_depth.exp()
TURNED, MOVED = rotations()[0], partners(POINTS, 0.3)[0]
NULL_SPACES = {
    "consistency of turned views": (consistency(POINTS, TURNED, 0.1), torch.eye(COUNT).double()),
    "consistency with a moved view": (consistency(POINTS, MOVED, 0.1), None),
    "coherence with own normals": (normals(POINTS, 0.1, observed=False), torch.eye(COUNT).double()),
    "coherence with pseudo-normals": (normals(POINTS, 0.1), span(ONES)),
    "metric pseudo-depth": (pseudo_depth(POINTS, 0.1), None),
    "pseudo-depth up to scale": (pseudo_depth(POINTS, 0.1, "scale"), span(ONES)),
    "affine-invariant inverse depth": (pseudo_depth(POINTS, 0.1, "affine"), span(ONES, DEPTHS)),
}


@pytest.mark.parametrize("name", NULL_SPACES)
def test_what_each_term_leaves_free_for_a_camera_that_turns(name: str) -> None:
    term, null_space = NULL_SPACES[name]
    known = knowledge(information([frames(POINTS, rotations(), 0.1), term], POINTS.log_depth))
    if null_space is None:
        assert known.rank == COUNT and known.least > 1.0 and known.free.shape == (COUNT, 0)
        return
    assert known.rank == COUNT - round(float(null_space.trace())) and known.least == 0.0
    torch.testing.assert_close(known.free @ known.free.T, null_space, rtol=0, atol=1e-6)


def test_coherence_spreads_one_metric_depth_to_all_points() -> None:
    one = pseudo_depth(POINTS, 0.1, only=[7])
    assert knowledge(information([one], POINTS.log_depth)).rank == 1
    both = knowledge(information([one, normals(POINTS, 0.1)], POINTS.log_depth))
    assert both.rank == COUNT
    worst = 1.0 / math.sqrt(both.least)
    assert 0.1 * math.sqrt(COUNT) < worst < 1.0  # the scale is known as well as the one depth, and no better


def test_the_tables_rows() -> None:
    rows = support_rows([0.0, 0.1, 1.0])
    ranks = {(row.support_m, row.terms): row.rank for row in rows}
    assert [ranks[0.0, terms] for terms in ("2D", "GLO without a teacher", "2D + GLO with teachers")] == [0, 0, COUNT]
    assert all(rank == COUNT for (support, _), rank in ranks.items() if support > 0)
    two_d = [row.error for row in rows if row.terms == "2D"]
    assert two_d[0] == math.inf and two_d[1] > 1.0 > two_d[2]
    for row in rows:
        assert (row.error == math.inf) == (row.least == 0.0) == (row.free != "nothing")
        assert row.median < NOTHING or row.rank > 0
    free = {row.terms: row.free for row in term_rows()}
    assert free["2D"] == free["2D + multi-view consistency, turned views"] == "every depth"
    assert free["2D + depth-normal coherence, pseudo-normals"] == "scale"
    assert free["2D + pseudo-depth, affine inverse"] == "scale and shift"
    assert free["2D + pseudo-normals and one metric depth"] == free["2D + pseudo-depth, metric"] == "nothing"
