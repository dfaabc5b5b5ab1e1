"""What an episode's world is like: the metres in one unit of length, and how far what networks see in it is to be relied on.

Networks read and write in the episode's own unit, which is about a metre of the rooms that they learned in. What a frame looks
like gives depth in units; matching with frames of known poses gives it in metres. Both are over planes that are uniform in the
logarithm of depth, so a unit of another size is a shift of one against the other. And where a world looks like none that was
learned from, what frames look like is worth less there: its log-likelihoods count `reliance` times, and what is typical of any
room counts for the rest. The likelihood of a shift and a reliance is a sum over planes, the belief a histogram over both:
Bayes' rule, in closed form, of any shape. Parallax narrows it, frame by frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import resize_intrinsics
from embodied_liftwm.geometry.matching.plane_sweep import plane_sweep
from embodied_liftwm.geometry.matching.semi_global import semi_global
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.depth_belief import typical

if TYPE_CHECKING:
    from embodied_liftwm.world_model.encoder import Sources

REACH = 20
"""Planes by which a unit may be larger or smaller than a metre: with 40 planes between 0.15 and 10 units, 8.6 times."""
RELIANCES = (1.0, 0.5, 0.25, 0.1, 0.0)
"""How often log-likelihoods of looks may count."""
FAMILIAR = 0.6
"""Probability, before any parallax, that they count once; the others share the rest."""
COARSE = 2
"""Pixels a side that are averaged before they are matched: a quarter of the time, and no worse."""
SHARPNESS = 3.0
"""Weight of semi-global costs against log-likelihoods: what encoders begin with (`encoder.SMOOTH_SHARPNESS`)."""
OUTLIERS = 0.6
"""Share of cells whose depth is taken for something else than what they look like (section 50, as the next two)."""
INDEPENDENT = 64
"""Cells that say the same: smoothed costs of neighbours are one witness, not many."""
DRIFT = 0.02
"""Probability, at each frame, that the unit is one plane larger after all, and that it is one smaller: what errs can mend."""


class Episode(NamedTuple):
    """What a belief comes to."""

    unit: Tensor  # [B] metres: the exponential of the expected logarithm
    doubt: Tensor  # [B] standard deviation of that logarithm
    reliance: Tensor  # [B] in [0, 1]


def unknown(batch_size: int, spread: float, log_planes: Tensor) -> Tensor:
    """Log-probabilities before any parallax: the logarithm of the unit is normal, about one metre. [B, R, S]

    R reliances and S = 2 REACH + 1 shifts.

    Args:
        batch_size: B.
        spread: standard deviation of the logarithm.
        log_planes: logarithms of the planes' depths in units, evenly spaced. [P]
    """
    shifts = torch.log_softmax(-0.5 * (_log_units(log_planes) / spread).square(), 0)
    others = (1.0 - FAMILIAR) / (len(RELIANCES) - 1)
    shares = log_planes.new_tensor([FAMILIAR, *[others] * (len(RELIANCES) - 1)]).log()
    return (shares[:, None] + shifts).repeat(batch_size, 1, 1)


def expected(belief: Tensor, log_planes: Tensor) -> Episode:
    """What beliefs [B, R, S] come to."""
    weight, units = belief.exp(), _log_units(log_planes)
    of_units, of_reliances = weight.sum(1), weight.sum(2)
    mean = of_units @ units
    doubt = (of_units * (units - mean[:, None]).square()).sum(1).sqrt()
    return Episode(mean.exp(), doubt, of_reliances @ units.new_tensor(RELIANCES))


def in_units(poses: Tensor, unit: Tensor) -> Tensor:
    """Poses [B, ..., 4, 4] with lengths in units of so many metres [B]."""
    rotation, place = poses[..., :3], poses[..., 3:]
    length = torch.ones_like(place)
    length[..., :3, :] = unit.view(-1, *[1] * (place.dim() - 1))
    return torch.cat([rotation, place / length], dim=-1)


def drifted(belief: Tensor) -> Tensor:
    """A belief [B, R, S] a frame later, a little less sure of the unit."""
    weight = belief.exp()
    up, down = F.pad(weight[..., :-1], (1, 0)), F.pad(weight[..., 1:], (0, 1))
    moved = (1.0 - 2.0 * DRIFT) * weight + DRIFT * (up + down)
    return (moved / moved.sum((1, 2), keepdim=True)).clamp_min(1e-12).log()


@torch.no_grad()
def narrowed(
    belief: Tensor,
    looks: Tensor,
    rgb: Tensor,
    camera: Camera,
    sources: Sources,
    unit: Tensor,
    log_planes: Tensor,
    stride: int,
) -> Tensor:
    """A belief after one more frame; rows without a usable source keep theirs.

    Args:
        belief: before it. [B, R, S]
        looks: log-likelihoods of the planes, in units, by what the frame looks like alone, up to a constant. [B, P, h, w]
        rgb: the frame, in [0, 1]. [B, 3, H, W]
        camera, sources: its camera, and other frames, with lengths in units.
        unit: of so many metres. [B]
        log_planes: as for `unknown`.
        stride: pixels a side of a cell.
    """
    cost = _wide_costs(rgb, camera, sources, unit, log_planes, stride)
    says = torch.softmax(-SHARPNESS * cost, dim=1).flatten(2) * cost.shape[1]
    says = says.unfold(1, len(log_planes), 1)  # [B, S, n, P]
    nats = []
    for reliance in RELIANCES:
        alike = torch.softmax(relied_on(looks, looks.new_full(looks.shape[:1], reliance), log_planes), dim=1)
        agreed = torch.einsum("bpn,bsnp->bsn", F.avg_pool2d(alike, COARSE).flatten(2), says)
        nats.append(torch.log((1.0 - OUTLIERS) * agreed + OUTLIERS).sum(2) / INDEPENDENT)
    found = belief + torch.where(sources.usable.any(1)[:, None, None], torch.stack(nats, dim=1), 0.0)
    return found - found.logsumexp((1, 2), keepdim=True)


def relied_on(logits: Tensor, reliance: Tensor, log_planes: Tensor) -> Tensor:
    """Log-likelihoods of looks [B, P, h, w] that count `reliance` [B] times, beside what is typical."""
    share = reliance[:, None, None, None]
    return share * torch.log_softmax(logits, dim=1) + (1.0 - share) * typical(log_planes)[:, None, None]


def _wide_costs(rgb: Tensor, camera: Camera, sources: Sources, unit: Tensor, log_planes: Tensor, stride: int) -> Tensor:
    """Semi-global costs of all depths, in metres, at which any unit puts a plane. [B, P + 2 REACH, h, w]"""
    step, planes = log_planes[1] - log_planes[0], len(log_planes)
    metres = (log_planes[0] + step * torch.arange(-REACH, planes + REACH, device=log_planes.device)).exp()
    small = F.avg_pool2d(rgb, COARSE)
    others = F.avg_pool2d(sources.rgb.flatten(0, 1), COARSE).unflatten(0, sources.rgb.shape[:2])
    intrinsics = resize_intrinsics(camera.intrinsics, 1.0 / COARSE)
    seen = Camera(intrinsics, in_units(camera.world_from_camera, 1.0 / unit), *small.shape[-2:])
    poses = in_units(sources.poses, 1.0 / unit)
    sweep = plane_sweep(small, seen, others, poses, sources.usable.unsqueeze(1), metres, stride)
    return semi_global(sweep.cost[:, 0], F.avg_pool2d(small, stride))


def _log_units(log_planes: Tensor) -> Tensor:
    """Logarithms of the metres in a unit, one for each shift. [S]"""
    return (log_planes[1] - log_planes[0]) * torch.arange(-REACH, REACH + 1, device=log_planes.device)
