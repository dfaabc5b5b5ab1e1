"""What the last step of the decoder of latents costs and gives: from features of cells to pixels, in five ways.

    liftwm collect split=eval seed=0 episodes=16 steps=12 workers=1 env_options.image_size=256 out=data/decoder-dev
    python benchmarks/decoder_ends.py results/decoder_ends.csv data/decoder-dev

Each end is trained with the encoder and the rest of the decoder, which begin alike: frames of 256 x 256 are encoded into cells
of 8 pixels with 8 channels and decoded, all visible, at the true depth; frame term alone, 150 steps of 2 frames. A repeat is a
seed: PSNR of the last quarter of the episodes, and milliseconds of a thread for `LatentDecoder.paint` of a frame, ends in turn.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from embodied_liftwm.bench.memory_parts import encoded
from embodied_liftwm.bench.table import Row, machine, report, seconds_in_turn, using_threads
from embodied_liftwm.config import ModelConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.evaluation.metrics.images import psnr
from embodied_liftwm.evaluation.views.episodes import truth_of
from embodied_liftwm.geometry.distributions import DiagonalGaussian
from embodied_liftwm.memory.contract import Read
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model
from embodied_liftwm.world_model.decoders.latents import Completed
from embodied_liftwm.world_model.layers.blocks import ResidualBlock

SIZE, STRIDE, STEPS, BATCH, SEEDS, CALLS, LEARNING_RATE = 256, 8, 150, 2, 3, 21, 1e-3  # at 3e-3 four trainings of 15 fail


class Frames(NamedTuple):
    """Frames of any episodes."""

    rgb: Tensor  # [F, 3, H, W] in [0, 1]
    depth: Tensor  # [F, h, w] metres, at the middle of each cell
    intrinsics: Tensor  # [F, 3, 3]
    poses: Tensor  # [F, 4, 4]


def at_once(channels: int, stride: int) -> list[nn.Module]:
    last = nn.Conv2d(channels, 6 * stride**2, 3, padding=1)  # begins at zero, as the decoder's
    last.load_state_dict({name: torch.zeros_like(values) for name, values in last.state_dict().items()})
    return [nn.SiLU(), last, nn.PixelShuffle(stride)]


def finer(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, 4 * out, 1), nn.PixelShuffle(2), ResidualBlock(out)]


ENDS: dict[str, Any] = {
    "two doublings with a block of 32 channels, one convolution": lambda: [*finer(32, 32), *finer(32, 32), *at_once(32, 2)],
    "the same with 16, then 8 channels": lambda: [*finer(32, 16), *finer(16, 8), *at_once(8, 2)],
    "one doubling with a block of 16 channels, one convolution": lambda: [*finer(32, 16), *at_once(16, 4)],
    "a block on cells, one convolution": lambda: [ResidualBlock(32), *at_once(32, 8)],
    "one convolution (taken)": lambda: at_once(32, 8),
}


def read(folder: str) -> tuple[Frames, Frames]:
    """Frames to train on, and those of the last quarter of the episodes."""
    found = []
    for index, episode in enumerate(EvaluationReader(folder)):
        depth = torch.from_numpy(truth_of(episode, index).depth).float()[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
        given = [torch.from_numpy(x) for x in (episode.rgb, episode.intrinsics, episode.world_from_camera)]
        found.append(Frames(given[0].movedim(-1, 1) / 255.0, depth, given[1].expand(len(depth), 3, 3), given[2]))
    split = len(found) - len(found) // 4
    return tuple(Frames(*map(torch.cat, zip(*part, strict=True))) for part in (found[:split], found[split:]))  # type: ignore


def complete(model: Any, frames: Frames) -> Completed:
    camera = Camera(frames.intrinsics, frames.poses, SIZE, SIZE)
    read = Read(encoded(model.encoder, frames.rgb, camera), torch.ones_like(frames.depth), frames.depth)
    return model.decoder.complete(read, camera)


def trained(end: str, seed: int, train: Frames) -> Any:
    """The model of an RGB cloud, whose encoder and decoder are those of all caches, with this end."""
    torch.manual_seed(seed)
    shapes = ModelShapes((SIZE, SIZE), 2, 3)
    model: Any = build_model(ModelConfig(memory="rgb_cloud", stride=STRIDE, latent_dim=8, width=32), shapes)
    model.decoder.head = nn.Sequential(*ENDS[end]()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS)
    for rows in torch.randint(len(train.rgb), (STEPS, BATCH), generator=torch.Generator().manual_seed(seed)):
        frames = Frames(*(values[rows] for values in train))
        shown = model.decoder.paint(complete(model, frames))
        loss = -DiagonalGaussian(shown.rgb, shown.scale.unsqueeze(1)).log_prob(frames.rgb).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def main(path: str, folder: str) -> None:
    train, test = read(folder)
    rows = {end: Row({"end": end}, {"paint, ms": [], "PSNR, dB": []}) for end in ENDS}
    with using_threads(1):
        for seed in range(SEEDS):
            models = {end: trained(end, seed, train) for end in ENDS}
            with torch.no_grad():
                grids = {end: complete(model, test) for end, model in models.items()}
                one = {end: Completed(*(values[:1] for values in grid)) for end, grid in grids.items()}
                times = seconds_in_turn({end: partial(models[end].decoder.paint, one[end]) for end in ENDS}, CALLS)
                for end, row in rows.items():
                    row.measures["paint, ms"].append(1e3 * sorted(times[end])[CALLS // 2])
                    shown = models[end].decoder.paint(grids[end]).rgb.clamp(0, 1)
                    row.measures["PSNR, dB"].append(float(psnr(shown, test.rgb).mean()))
    report(Console(), "from cells to pixels", list(rows.values()), machine(), Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
