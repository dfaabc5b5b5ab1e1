"""Encoder: a frame becomes depth, opacity and latents on a grid of cells of `stride` pixels a side.

Depth is a distribution over planes, from witnesses whose log-likelihoods add: what the frame looks like (a network), and what
recent frames say of it (plane sweep with the believed poses), cell by cell and smoothed over the whole image (semi-global
matching). Each may be silent: a first frame has no parallax, and a blank wall has no texture.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.geometry.matching.plane_sweep import Sweep, plane_sweep
from embodied_liftwm.geometry.matching.semi_global import semi_global
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.decoders.cell_codec import CellEncoder
from embodied_liftwm.world_model.depth_belief import Matches, belief_of, believe, typical
from embodied_liftwm.world_model.episode_belief import relied_on
from embodied_liftwm.world_model.layers.blocks import Pyramid, levels_of, ray_channels
from embodied_liftwm.world_model.layers.epipolar_attention import EpipolarAttention
from embodied_liftwm.world_model.motion import Recent

LOCAL_SHARPNESS, SMOOTH_SHARPNESS = 1.0, 3.0
"""Initial weights of the matching costs, of a window and semi-global, against the network's log-likelihoods; learned, and each
cell trusts them more or less."""


LEAST_LATENT_SCALE = 0.02
"""Smallest standard deviation of a latent: below it a KL only measures how sharp two needles are."""
TYPICAL_SPREAD_SEEN = 0.1
"""Spread of a log-depth at which opacity is neither raised nor lowered."""


ATTENDED = 2
"""Sources, the best first, that epipolar attention asks."""
PATCH_PX = 4
"""Side of the patches that attend to each other along epipolar lines."""


class Sources(NamedTuple):
    """Other frames that may triangulate a frame."""

    rgb: Tensor  # [B, S, 3, H, W]
    poses: Tensor  # [B, S, 4, 4] world_from_camera
    usable: Tensor  # [B, S] bool
    judges: Tensor | None = None  # [B, S] bool: in training, those that must be explained, usable or not
    recent: Recent | None = None  # the last few frames, for models of a world in which things move
    reliance: Tensor | None = None  # [B] how far looks are to be relied on (`episode_belief.py`); wholly if None


class Encoding(NamedTuple):
    """What one frame says, with the help of its sources."""

    log_belief: Tensor  # [B, P, h, w] log-probability of each depth plane
    depth: Tensor  # [B, h, w] metres, the exponential of the expected log-depth
    spread: Tensor  # [B, h, w] standard deviation of the log-depth
    opacities: Tensor  # [B, h, w] in (0, 1)
    latents: Tensor  # [B, D, h, w] mean of their posterior
    normal: Tensor  # [B, 3, h, w] unit surface normal in the camera's frame, towards the camera
    latent_scale: Tensor  # [B, D, h, w] standard deviation of the posterior
    velocity: Tensor  # [B, 3, h, w] metres a step, world frame, if the cell moves
    moving: Tensor  # [B, h, w] probability that it does
    lone_depth: Tensor  # [B, h, w] metres: by what the frame looks like alone, where things may move; else as `depth`


class Encoder(nn.Module):
    """Rays, pixels and matching costs in, cells out."""

    def __init__(self, config: ModelConfig, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.stride, self.latent_dim = config.stride, config.latent_dim
        self.things_move = config.movers > 0
        log_planes = torch.linspace(math.log(config.min_depth_m), math.log(config.max_depth_m), config.planes)
        self.log_planes: Tensor
        self.register_buffer("log_planes", log_planes, persistent=False)
        self.stem = nn.Conv2d(3 + 4, config.width, config.stride, stride=config.stride)
        self.match_features = nn.Conv2d(2 * config.planes, config.width, 1)
        depth_range, heads = (config.min_depth_m, config.max_depth_m), config.epipolar_heads
        self.attention = EpipolarAttention(config.width, config.width, PATCH_PX, depth_range, heads) if heads else None
        self.log_sharpness = nn.Parameter(torch.tensor([LOCAL_SHARPNESS, SMOOTH_SHARPNESS]).log())
        self.caution = nn.Parameter(torch.tensor(1.5))  # how much less opaque a primitive of doubtful depth is
        self.trunk = Pyramid(config.width, config.widest, levels=levels_of(image_size, config.stride))
        self.parts = [config.planes, 1, 1, config.latent_dim, 3, config.latent_dim]  # logits of depth, trust, opacity, latents,
        # normal, the latents' scale
        self.head = nn.Conv2d(config.width, sum(self.parts), 3, padding=1)
        nn.init.normal_(self.head.weight, std=1e-2)
        bias = torch.zeros(sum(self.parts))
        bias[-config.latent_dim - 1] = -1.0  # an untrained normal faces the camera
        bias[: config.planes] = typical(log_planes)
        bias[config.planes + 1] = 3.0
        self.head.bias = nn.Parameter(bias)

    def match(self, rgb: Tensor, camera: Camera, sources: Sources) -> Matches:
        """What the usable sources say."""
        sweep = self._sweep(rgb, camera, sources, sources.usable.unsqueeze(1))
        return _centred(sweep.cost[:, 0], semi_global(sweep.cost[:, 0], self._guide(rgb)))

    def match_and_judge(self, rgb: Tensor, camera: Camera, sources: Sources) -> tuple[Matches, Sweep]:
        """What the usable sources say, and the costs after semi-global matching with all judges, one group: [B, 1, P, h, w]."""
        judges = sources.usable if sources.judges is None else sources.judges
        sweep = self._sweep(rgb, camera, sources, torch.stack([sources.usable, judges], dim=1))
        guide = self._guide(rgb).repeat_interleave(2, dim=0)
        smooth = semi_global(sweep.cost.flatten(0, 1), guide).unflatten(0, sweep.cost.shape[:2])
        return _centred(sweep.cost[:, 0], smooth[:, 0]), Sweep(smooth[:, 1:], sweep.known[:, 1:])

    def _sweep(self, rgb: Tensor, camera: Camera, sources: Sources, groups: Tensor) -> Sweep:
        return plane_sweep(rgb, camera, sources.rgb, sources.poses, groups, self.log_planes.exp(), self.stride)

    def _guide(self, rgb: Tensor) -> Tensor:
        return F.avg_pool2d(rgb, self.stride)

    def forward(self, rgb: Tensor, camera: Camera, matches: Matches | None, sources: Sources | None = None) -> Encoding:
        """Encode.

        Args:
            rgb: frames in [0, 1]. [B, 3, H, W]
            camera: the cameras that saw them.
            matches: what sources say of the planes.
            sources: whom epipolar attention asks, where the encoder has it.
        """
        features = self.stem(torch.cat([2.0 * rgb - 1.0, ray_channels(camera)], dim=1))
        if matches is not None:
            features = features + self.match_features(torch.cat([matches.local, 0.3 * matches.smooth], dim=1))
        if self.attention is not None and sources is not None:
            asked = (x[:, :ATTENDED] for x in (sources.rgb, sources.poses, sources.usable))
            answer = self.attention(rgb, camera, *asked)
            features = features + F.interpolate(answer, features.shape[-2:], mode="bilinear")
        out = self.head(F.silu(self.trunk(features)))
        depth_logits, trust, opacity, latents, normal, scale = out.split(self.parts, dim=1)
        if sources is not None and sources.reliance is not None:
            depth_logits = relied_on(depth_logits, sources.reliance, self.log_planes)
            trust = trust * sources.reliance[:, None, None, None]
        found = believe(depth_logits, trust, matches, self.log_sharpness, self.log_planes)
        spread, log_depth = found.spread, found.log_depth
        alone = belief_of(depth_logits, self.log_planes).log_depth if self.things_move else log_depth
        doubt = torch.log(spread.detach().clamp_min(1e-3) / TYPICAL_SPREAD_SEEN)
        opacities = torch.sigmoid(opacity.squeeze(1) - self.caution * doubt)
        latent_scale = LEAST_LATENT_SCALE + F.softplus(scale - 2.0)
        still = spread.new_zeros(()).expand_as(spread)
        return Encoding(
            log_belief=found.log_belief,
            depth=log_depth.exp(),
            spread=spread,
            opacities=opacities,
            latents=latents,
            normal=F.normalize(normal, dim=1),
            latent_scale=latent_scale,
            velocity=still.unsqueeze(1).expand(-1, 3, -1, -1),
            moving=still,
            lone_depth=alone.exp(),
        )

    def encode(self, rgb: Tensor, camera: Camera, sources: Sources | None) -> Encoding:
        """Match against the usable sources, where there are any, and encode."""
        return self(rgb, camera, None if sources is None else self.match(rgb, camera, sources), sources)


class CodedEncoder(Encoder):
    """`Encoder` whose latents begin as the cells' colours, for memories that keep nothing else of a frame."""

    def __init__(self, config: ModelConfig, image_size: tuple[int, int]) -> None:
        super().__init__(config, image_size)
        self.colours = CellEncoder(config.latent_dim, config.stride)

    def forward(self, rgb: Tensor, camera: Camera, matches: Matches | None, sources: Sources | None = None) -> Encoding:
        encoding = super().forward(rgb, camera, matches, sources)
        return encoding._replace(latents=encoding.latents + self.colours(rgb))


def _centred(local: Tensor, smooth: Tensor) -> Matches:
    return Matches(*(cost - cost.mean(1, keepdim=True) for cost in (local, smooth)))
