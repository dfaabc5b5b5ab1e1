"""What latent diffusion models share: seeded noise, guidance, denoising with DDIM, and the way in and out of the latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def load_part(kind: Any, folder: Path, device: str) -> Any:
    """A model of diffusers or transformers from its folder, in float32 whatever it was saved in."""
    whole = {"low_cpu_mem_usage": False} if hasattr(kind, "load_config") else {}  # in parts, diffusers needs accelerate
    return kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32, **whole).to(device).eval()


def picture_size(unet: Any, vae: Any) -> int:
    """Side of a model's pictures, pixels: 256 for the public checkpoints of Zero-1-to-3 and MVDream."""
    return int(unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1))


def load_scheduler(folder: Path) -> Any:
    """DDIM over the noise levels of any scheduler's folder, at the steps that Stable Diffusion was trained to begin from."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_pretrained(folder, local_files_only=True, steps_offset=1, clip_sample=False)


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise, each picture from its own seed: how pictures are batched changes none. [len(seeds), *shape]"""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def guided(both: Tensor, scale: float) -> Tensor:
    """Away from the unconditional half and past the conditional half (Ho and Salimans 2022, Eq. 6). [2 B, ...] -> [B, ...]"""
    free, conditioned = both.chunk(2)
    return free + scale * (conditioned - free)


def denoise(
    scheduler: Any,
    steps: int,
    noise: Tensor,
    predict: Callable[[Tensor, Tensor], Tensor],
    hold: Callable[[Tensor, Tensor], Tensor] = lambda latents, time: latents,
) -> Tensor:
    """DDIM without added noise (Song et al. 2021, arXiv:2010.02502).

    Args:
        noise: where it begins, standard normal. [B, D, h, w]
        predict: what the network says of latents at a time step, e.g. the noise in them.
        hold: may overwrite latents before each step.
    """
    scheduler.set_timesteps(steps)
    latents = noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        latents = hold(latents, time)
        latents = scheduler.step(predict(latents, time), time, latents, eta=0.0).prev_sample
    return latents


def encode(vae: Any, rgb: Tensor) -> Tensor:
    """The most likely latents of pictures in [0, 1], not scaled to unit variance. [B, 3, H, W] -> [B, D, h, w]"""
    mode: Tensor = vae.encode(2.0 * rgb - 1.0).latent_dist.mode()
    return mode


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures in [0, 1], on the CPU, of latents of unit variance. [B, D, h, w] -> [B, 3, H, W]"""
    rgb: Tensor = vae.decode(latents / vae.config.scaling_factor).sample
    return (0.5 * rgb + 0.5).clamp(0.0, 1.0).cpu()
