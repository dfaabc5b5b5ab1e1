"""Zero-1-to-3, composed of diffusers' core classes: an object from another side (Liu et al. 2023, arXiv:2303.11328).

Its conditions: the picture's latents beside the noisy ones, and one token for the cross-attention, projected from CLIP's
embedding of the picture and the camera's move (polar angle, sine and cosine of azimuth, distance). Checkpoints have the layout
of kxic/zero123-xl: unet, vae, image_encoder, scheduler, cc_projection. What it means in a room is said in `orbit`: the
model takes what the middle of a frame shows for one object at the origin, so its views are weak evidence and say so.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.priors import hub
from embodied_liftwm.priors.contract import Clip, NovelViews, PriorCard, PriorOptions, PseudoObservations
from embodied_liftwm.priors.generative import orbit
from embodied_liftwm.priors.generative.diffusion import (
    decode,
    denoise,
    encode,
    guided,
    load_part,
    load_scheduler,
    picture_size,
    seeded_noise,
)

DEFAULT_WEIGHTS = "kxic/zero123-xl"
PACKAGES = ("diffusers", "transformers")
FILES: hub.Files = (
    ("model_index.json",),
    ("scheduler/scheduler_config.json",),
    *((f"{folder}/config.json",) for folder in ("unet", "vae", "image_encoder")),
    *(hub.part(folder, hub.DIFFUSION_MODEL) for folder in ("unet", "vae", "cc_projection")),
    hub.part("image_encoder", hub.MODEL),
)
FRAMES = 4
"""Frames of a clip that views are imagined from."""
MOVES_DEG = ((0.0, 20.0), (0.0, -20.0), (-15.0, 0.0))
"""Polar angle and azimuth by which the views differ from their frame: to either side, and from above."""
STEPS, GUIDANCE = 50, 3.0
"""Steps of DDIM and scale of guidance, about what public pipelines of these weights take."""
FIELD_OF_VIEW = 2.0 * math.atan(16.0 / 35.0)
"""Radians. Blender's default lens, which rendered what it was trained on: 35 mm over a sensor of 32 mm."""
TRAINED_RADIUS = 1.85
"""Distance of its training cameras, 1.5 to 2.2, from objects of size 1: the frame's own distance is taken for this one."""
CONFIDENCE = 0.1
"""Of every pixel it draws: a guess at this much of a pixel of the agent's own, rooms being unlike its training."""


class Zero123:
    """An opened checkpoint: `Prior`."""

    def __init__(self, folder: Path, options: PriorOptions, steps: int = STEPS) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPVisionModelWithProjection

        hub.quiet()
        self._folder, self._options, self._steps = folder, options, steps
        self._unet = load_part(UNet2DConditionModel, folder / "unet", options.device)
        self._vae = load_part(AutoencoderKL, folder / "vae", options.device)
        self._clip = load_part(CLIPVisionModelWithProjection, folder / "image_encoder", options.device)
        self._project = load_projection(folder / "cc_projection").to(options.device)
        self._scheduler = load_scheduler(folder / "scheduler")
        if self._unet.config.in_channels != 2 * self._vae.config.latent_channels:
            raise UserError(
                f"{folder}: expected a unet of {2 * self._vae.config.latent_channels} in_channels (noisy latents and the "
                f"picture's), got {self._unet.config.in_channels}: this is no Zero-1-to-3 checkpoint"
            )

    def fingerprint(self) -> str:
        settings = (FRAMES, MOVES_DEG, self._steps, GUIDANCE, FIELD_OF_VIEW, TRAINED_RADIUS, CONFIDENCE, self._options.seed)
        return hub.fingerprint("zero123", self._folder, *settings)

    @torch.no_grad()
    def observe(self, clip: Clip) -> PseudoObservations:
        """Views from beside some frames, of what their middle shows; frames in order, moves in order within a frame."""
        chosen = orbit.chosen_frames(len(clip.rgb), FRAMES)
        look_at = orbit.look_at_points(clip, chosen)
        which = torch.arange(len(chosen)).repeat_interleave(len(MOVES_DEG))
        polar, azimuth = torch.tensor(MOVES_DEG).deg2rad().repeat(len(chosen), 1).unbind(1)
        frames, points = chosen[which], look_at.points[which]
        poses = clip.world_from_camera[frames]
        targets = orbit.turned(poses, points, polar, azimuth)
        height, width = clip.rgb.shape[-2:]
        window = orbit.middle_window(clip.intrinsics, height, width, FIELD_OF_VIEW)
        pictures = orbit.cut(clip.rgb[frames], window, picture_size(self._unet, self._vae))
        moves = relative_move(poses[:, :3, 3], targets[:, :3, 3], points)
        seeds = [1000 * self._options.seed + k for k in range(len(frames))]
        rgb, inside = orbit.paste(self._draw(pictures, moves, seeds), window, height, width)
        sure = CONFIDENCE * torch.where(look_at.told[which], 1.0, orbit.GUESSED_FACTOR)
        return PseudoObservations(views=NovelViews(rgb, inside * sure[:, None, None], targets, frames))

    def _draw(self, pictures: Tensor, moves: Tensor, seeds: list[int]) -> Tensor:
        """What is seen after `moves` [V, 4] from where `pictures` [V, 3, S, S] in [0, 1] were taken. [V, 3, S, S]"""
        size, shape = self._options.batch_size, (self._vae.config.latent_channels, *[self._unet.config.sample_size] * 2)
        batches = zip(pictures.split(size), moves.split(size), seeded_noise(seeds, shape).split(size))
        return torch.cat([self._draw_batch(*(x.to(self._options.device) for x in batch)) for batch in batches])

    def _draw_batch(self, pictures: Tensor, moves: Tensor, noise: Tensor) -> Tensor:
        beside = encode(self._vae, pictures)  # not scaled: the model was trained so
        embedded = self._clip(clip_pixels(pictures, self._clip.config.image_size)).image_embeds
        token = self._project(torch.cat([embedded, moves], dim=-1))[:, None]
        beside, tokens = (torch.cat([torch.zeros_like(x), x]) for x in (beside, token))  # nothing, and all that is known

        def predict(latents: Tensor, time: Tensor) -> Tensor:
            both = torch.cat([torch.cat([latents, latents]), beside], dim=1)
            return guided(self._unet(both, time, encoder_hidden_states=tokens).sample, GUIDANCE)

        return decode(self._vae, denoise(self._scheduler, self._steps, noise, predict))


def relative_move(eye: Tensor, target: Tensor, point: Tensor) -> Tensor:
    """How a camera moves about a point, as Zero-1-to-3 is told it.

    Args:
        eye, target: where the picture was and will be taken from, metres. [V, 3]
        point: what both look at, metres. [V, 3]

    Returns:
        Difference of the angles from +z (radians, downwards positive), sine and cosine of the azimuths', and difference of the
        distances in units in which the first is TRAINED_RADIUS. [V, 4]
    """
    before, after = orbit.spherical(eye, point), orbit.spherical(target, point)
    polar, azimuth, radius = (b - a for a, b in zip(before, after))
    return torch.stack([polar, azimuth.sin(), azimuth.cos(), radius * TRAINED_RADIUS / before[2]], dim=-1)


def clip_pixels(pictures: Tensor, size: int) -> Tensor:
    """Pictures as CLIP was shown them in training: corner to corner, not smoothed. [B, 3, S, S] in [0, 1] -> [B, 3, s, s]"""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    resized = F.interpolate(pictures, (size, size), mode="bicubic", align_corners=True)
    mean, deviation = (resized.new_tensor(x)[:, None, None] for x in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (resized - mean) / deviation


def load_projection(folder: Path) -> torch.nn.Linear:
    """The layer that makes a token of CLIP's embedding and the four numbers of a move: 772 -> 768 in the public checkpoints."""
    weights: dict[str, Any] = hub.load_weights(folder)
    weight, bias = (weights[f"projection.{name}"] for name in ("weight", "bias"))
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)


CARD = PriorCard(
    name="zero123",
    gives=("views",),
    about="Zero-1-to-3 (arXiv:2303.11328): views from beside a frame; trained on single objects, so weak in rooms",
    licence="MIT",
    non_commercial=False,
    missing=lambda given: hub.what_is_missing(PACKAGES, given.weights or DEFAULT_WEIGHTS, FILES),
    open=lambda given: Zero123(hub.find_folder(PACKAGES, given.weights or DEFAULT_WEIGHTS, FILES), given),
)
