"""Latents to pixels: cosine waves of a cell and back, holes filled in latent space, and what stays as it was read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.geometry import look_at
from embodied_liftwm.memory.contract import Read
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.decoders.cell_codec import CellDecoder, CellEncoder, cosine_transform
from embodied_liftwm.world_model.decoders.latents import LARGEST_LOG_STEP, LatentDecoder
from tests.training.small import disturb

SIZE = 32


def camera(rows: int, size: int = SIZE) -> Camera:
    half = size / 2
    intrinsics = torch.tensor([[half, 0.0, half], [0.0, half, half], [0.0, 0.0, 1.0]]).expand(rows, 3, 3)
    return Camera(
        intrinsics, look_at(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 1.0]])).expand(rows, 4, 4), size, size
    )


def frames(rows: int, size: int = SIZE) -> torch.Tensor:
    return torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("stride", "channels"), [(1, 3), (2, 12), (4, 48)])
def test_all_waves_together_lose_nothing(stride: int, channels: int) -> None:
    rgb = frames(2)
    torch.testing.assert_close(CellDecoder(channels, stride)(CellEncoder(channels, stride)(rgb)), rgb, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("stride", "channels"), [(2, 4), (2, 8), (4, 16), (8, 8)])
def test_few_waves_are_the_nearest_picture_they_can_make(stride: int, channels: int) -> None:
    """Least squares, cell by cell, on the span of the waves."""
    rgb = frames(1)
    found = CellDecoder(channels, stride)(CellEncoder(channels, stride)(rgb))
    waves = cosine_transform(channels, stride)[0].flatten(1).double().numpy()
    cells = F.unfold(rgb, stride, stride=stride)[0].double().numpy()  # [3 * stride * stride, cells]
    nearest = waves.T @ np.linalg.lstsq(waves.T, cells, rcond=None)[0]
    expected = F.fold(torch.from_numpy(nearest)[None], (SIZE, SIZE), stride, stride=stride).float()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_first_latents_are_brightness_and_hue() -> None:
    latents = CellEncoder(4, 4)(torch.full((1, 3, 4, 4), 0.75))
    torch.testing.assert_close(latents.flatten(), torch.tensor([4.0 * 0.25, 0.0, 0.0, 0.0]), atol=1e-5, rtol=0)
    decoder, rgb = CellDecoder(8, 4), frames(2)
    colours = decoder.colours(CellEncoder(8, 4)(rgb).movedim(1, -1))
    torch.testing.assert_close(colours, F.avg_pool2d(rgb, 4).movedim(1, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "stride", "channels"), [(32, 1, 4), (32, 2, 12), (64, 4, 16), (64, 8, 8)])
def test_an_untrained_decoder_shows_what_latents_carry(size: int, stride: int, channels: int) -> None:
    torch.manual_seed(0)
    decoder = LatentDecoder(ModelConfig(latent_dim=channels, stride=stride, width=8), (size, size))
    latents, cells = CellEncoder(channels, stride)(frames(2, size)), size // stride
    whole = torch.ones(2, cells, cells)
    decoded = decoder(Read(latents, whole, 2.0 * whole), camera(2, size))
    torch.testing.assert_close(decoded.rgb, decoder.colours(latents))
    torch.testing.assert_close(decoded.depth, torch.full((2, size, size), 2.0))
    assert float(decoded.scale.detach().min()) > 0.0 and decoded.scale.shape == (2, size, size)
    assert decoded.seen is not None and float(decoded.seen.detach().min()) > 0.9


def test_what_was_read_stays_and_holes_are_filled_and_known() -> None:
    torch.manual_seed(1)
    decoder = LatentDecoder(ModelConfig(latent_dim=5, stride=4, width=8), (SIZE, SIZE))
    disturb(decoder)
    generator = torch.Generator().manual_seed(2)
    latents, depth = torch.randn(1, 5, 8, 8, generator=generator), 1.0 + torch.rand(1, 8, 8, generator=generator)
    visible = torch.ones(1, 8, 8)
    visible[0, :4, :4], visible[0, 6, 6] = 0.0, 0.4
    grid = decoder.complete(Read(latents * visible.unsqueeze(1), visible, depth * visible), camera(1))
    hole = visible == 0
    torch.testing.assert_close(grid.latents.movedim(1, -1)[~hole], latents.movedim(1, -1)[~hole])
    torch.testing.assert_close(grid.depth[~hole], depth[~hole])
    assert bool((grid.seen[hole] < 0.2).all()) and bool((grid.seen[~hole] > 0.8).all())
    low, high = ModelConfig().min_depth_m, ModelConfig().max_depth_m
    assert low < float(grid.depth[hole].min()) <= float(grid.depth[hole].max()) < high
    assert float(grid.latents.movedim(1, -1)[hole].abs().min()) > 0.0  # imagined, not left at zero
    decoded = decoder.paint(grid)
    cells = decoded.depth.view(8, 4, 8, 4).permute(0, 2, 1, 3).flatten(2)
    ratio = (cells.log() - grid.depth[0].log()[..., None]).abs().max()
    assert 0.0 < float(ratio) <= LARGEST_LOG_STEP + 1e-5
    whole = decoder(Read(latents * visible.unsqueeze(1), visible, depth * visible), camera(1))
    torch.testing.assert_close(tuple(whole), tuple(decoded), atol=0, rtol=0)


def test_what_lies_in_a_hole_does_not_matter_beyond_visibility() -> None:
    """A cell with little visibility is imagined in part; one with none is imagined whole, and every gradient is finite."""
    torch.manual_seed(4)
    decoder = LatentDecoder(ModelConfig(latent_dim=4, stride=4, width=8), (SIZE, SIZE))
    disturb(decoder)
    latents = torch.ones(1, 4, 8, 8, requires_grad=True)
    visible = torch.zeros(1, 8, 8)
    visible[0, 0, 0], visible[0, 0, 1] = 0.125, 1.0
    decoded = decoder(Read(latents * visible.unsqueeze(1), visible, 2.0 * visible), camera(1))
    (gradient,) = torch.autograd.grad(decoded.rgb.sum() + decoded.depth.sum() + decoded.seen.sum(), latents)
    assert bool(gradient.isfinite().all())
    assert bool((gradient[0, :, visible[0] == 0] == 0).all()) and float(gradient[0, :, 0, 1].abs().min()) > 0.0
    half = decoder.complete(Read(latents * visible.unsqueeze(1), visible, 2.0 * visible), camera(1)).seen[0, 0, 0]
    assert 0.1 < float(half) < 0.9 and math.isfinite(float(half))
