"""MVDream: four views at once of what a text names (Shi et al. 2023, arXiv:2308.16512), here held to one frame of the agent's.

The model knows text and cameras, no pictures. So that its views are of this room and not of any, the first of the four is the
frame itself: before each step its latents are overwritten with the frame's, noised as far as that step expects (Lugmayr et al.
2022, RePaint), and attention across views carries it to the other three, a quarter turn apart around what the middle of the
frame looks at. They are the weakest evidence of all teachers: the far side of things as a model of single objects dreams it.

Checkpoints have the layout of ashawkey/mvdream-sd2.1-diffusers: unet, vae, text_encoder, tokenizer, scheduler. Its network is
rebuilt on diffusers' own in `mvdream_unet`; none of the checkpoint's code is run.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from embodied_liftwm.priors.generative.mvdream_unet import VIEWS, camera_embedding, load_unet

DEFAULT_WEIGHTS = "ashawkey/mvdream-sd2.1-diffusers"
PACKAGES = ("diffusers", "transformers")
FILES: hub.Files = (
    ("model_index.json",),
    ("scheduler/scheduler_config.json",),
    *((f"{folder}/config.json",) for folder in ("unet", "vae", "text_encoder")),
    ("tokenizer/vocab.json", "tokenizer/tokenizer.json"),
    *(hub.part(folder, hub.DIFFUSION_MODEL) for folder in ("unet", "vae")),
    hub.part("text_encoder", hub.MODEL),
)
FRAMES = 4
"""Frames of a clip that views are imagined from."""
STEPS, GUIDANCE = 50, 7.0
"""Steps of DDIM and scale of guidance, about what public pipelines of these weights take."""
FIELD_OF_VIEW = math.radians(60.0)
"""The widest it was trained with."""
ELEVATIONS = 0.0, math.radians(30.0)
"""Radians; its training cameras lie between. A frame outside is told as the nearer bound."""
CONFIDENCE = 0.02
"""Of every pixel it draws: next to nothing, since behind things it invents."""


class MVDream:
    """An opened checkpoint: `Prior`."""

    def __init__(self, folder: Path, options: PriorOptions, steps: int = STEPS) -> None:
        from diffusers import AutoencoderKL
        from transformers import CLIPTextModel, CLIPTokenizer

        hub.quiet()
        self._folder, self._options, self._steps = folder, options, steps
        self._unet = load_unet(folder / "unet").to(options.device)
        self._vae = load_part(AutoencoderKL, folder / "vae", options.device)
        self._scheduler = load_scheduler(folder / "scheduler")
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        self._text = self._encode_text(tokenizer, load_part(CLIPTextModel, folder / "text_encoder", options.device))

    @torch.no_grad()
    def _encode_text(self, tokenizer: Any, encoder: Any) -> Tensor:
        """No words, and the prompt's. [2, L, D]"""
        tokens = tokenizer(
            ["", self._options.prompt], padding="max_length", truncation=True, max_length=tokenizer.model_max_length,
            return_tensors="pt",
        )  # fmt: skip
        text: Tensor = encoder(tokens.input_ids.to(self._options.device)).last_hidden_state
        return text

    def fingerprint(self) -> str:
        settings = (FRAMES, self._steps, GUIDANCE, FIELD_OF_VIEW, ELEVATIONS, CONFIDENCE)
        return hub.fingerprint("mvdream", self._folder, *settings, self._options.prompt, self._options.seed)

    @torch.no_grad()
    def observe(self, clip: Clip) -> PseudoObservations:
        """Three views of each of some frames, at a quarter, a half and three quarters of a turn; frames in order."""
        chosen = orbit.chosen_frames(len(clip.rgb), FRAMES)
        look_at = orbit.look_at_points(clip, chosen)
        poses, (height, width) = clip.world_from_camera[chosen], clip.rgb.shape[-2:]
        polar, _, _ = orbit.spherical(poses[:, :3, 3], look_at.points)
        window = orbit.middle_window(clip.intrinsics, height, width, FIELD_OF_VIEW)
        pictures = orbit.cut(clip.rgb[chosen], window, picture_size(self._unet, self._vae))
        drawn = self._draw(pictures, (math.pi / 2 - polar).clamp(*ELEVATIONS))
        rgb, inside = orbit.paste(drawn, window, height, width)
        which = torch.arange(len(chosen)).repeat_interleave(VIEWS - 1)
        azimuth = _azimuths()[1:].repeat(len(chosen))
        targets = orbit.turned(poses[which], look_at.points[which], torch.zeros_like(azimuth), azimuth)
        sure = CONFIDENCE * torch.where(look_at.told[which], 1.0, orbit.GUESSED_FACTOR)
        return PseudoObservations(views=NovelViews(rgb, inside * sure[:, None, None], targets, chosen[which]))

    def _draw(self, pictures: Tensor, elevation: Tensor) -> Tensor:
        """The other three views of what `pictures` [K, 3, S, S] in [0, 1] show from `elevation` [K]. [3 K, 3, S, S]"""
        sets = max(1, self._options.batch_size // VIEWS)
        shape = (VIEWS, self._vae.config.latent_channels, *[self._unet.config.sample_size] * 2)
        noise = seeded_noise([1000 * self._options.seed + k for k in range(len(pictures))], shape)
        batches = zip(pictures.split(sets), elevation.split(sets), noise.split(sets))
        return torch.cat([self._draw_sets(*(x.to(self._options.device) for x in batch)) for batch in batches])

    def _draw_sets(self, pictures: Tensor, elevation: Tensor, noise: Tensor) -> Tensor:
        sets = len(pictures)
        azimuth = _azimuths().to(elevation).repeat(sets)
        cameras = camera_embedding(elevation.repeat_interleave(VIEWS), azimuth).repeat(2, 1)
        text = self._text.repeat_interleave(sets * VIEWS, dim=0)
        known = encode(self._vae, pictures) * self._vae.config.scaling_factor

        def hold(latents: Tensor, time: Tensor) -> Tensor:
            held = latents.unflatten(0, (sets, VIEWS)).clone()
            held[:, 0] = self._scheduler.add_noise(known, noise[:, 0], time)
            return held.flatten(0, 1)

        def predict(latents: Tensor, time: Tensor) -> Tensor:
            both = torch.cat([latents, latents])
            return guided(self._unet(both, time, encoder_hidden_states=text, class_labels=cameras).sample, GUIDANCE)

        latents = denoise(self._scheduler, self._steps, noise.flatten(0, 1), predict, hold)
        return decode(self._vae, latents.unflatten(0, (sets, VIEWS))[:, 1:].flatten(0, 1))


def _azimuths() -> Tensor:
    """Of the views of a set, from the frame on, in radians. [VIEWS]"""
    return torch.arange(VIEWS) * (2.0 * math.pi / VIEWS)


CARD = PriorCard(
    name="mvdream",
    gives=("views",),
    about="MVDream (arXiv:2308.16512): four views of what a text names, held to a frame; the weakest evidence of all",
    licence="OpenRAIL, as the page of the weights says",
    non_commercial=False,
    missing=lambda given: hub.what_is_missing(PACKAGES, given.weights or DEFAULT_WEIGHTS, FILES),
    open=lambda given: MVDream(hub.find_folder(PACKAGES, given.weights or DEFAULT_WEIGHTS, FILES), given),
)
