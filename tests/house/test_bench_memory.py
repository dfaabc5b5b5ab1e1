"""`liftwm bench memory` at tiny sizes: what it measures, counts and writes, not how fast it is."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from embodied_liftwm import cli
from embodied_liftwm.commands import bench_memory
from embodied_liftwm.commands.bench_memory_parts import build, encoded, new_watch
from embodied_liftwm.commands.bench_memory_room import CORNERS_M, camera_of, film, render
from embodied_liftwm.config import BenchConfig, ModelConfig
from embodied_liftwm.geometry.cameras import back_project

WORDS = ["memory_sizes=[32]", "memory_frames=[4,8]", "memory_growing_frames=4", "memory_budgets=[32768]", "repeats=2"]
SMALL = ModelConfig(width=8, widest=1)


def test_the_room_is_seen_exactly() -> None:
    camera = camera_of(17, 32, "cpu")
    rgb, depth = render(camera)
    points = back_project(depth, camera.intrinsics, camera.world_from_camera)[0].double()
    low, high = (torch.tensor(corner, dtype=torch.float64) for corner in CORNERS_M)
    assert bool(((points > low - 1e-5) & (points < high + 1e-5)).all())
    to_wall = torch.minimum((points - low).abs(), (points - high).abs()).amin(-1)
    assert float(to_wall.max()) < 1e-5  # every ray ends on a wall, none inside the room or beyond
    assert 0.0 <= float(rgb.min()) < 0.3 < 0.6 < float(rgb.max()) <= 1.0


def test_memories_share_an_encoder_and_a_decoder_and_read_what_they_were_shown() -> None:
    config = BenchConfig(memory_budgets=(2**16,), model=SMALL)
    frame = film(3, 64, 2, "cpu")
    with torch.no_grad():
        cloud, memories = build(config, 64)
        latents = encoded(cloud, frame.rgb, frame.camera)
        told = {}
        for memory in memories:
            world = memory.observe(memory.empty(), frame, latents)
            told[memory.name] = memory.read(world, frame.camera, new_watch("cpu"))
    assert set(told) == {"rgb_cloud", "latent_append", "latent_bounded"}
    for name in ("latent_append", "latent_bounded"):
        # Read from where it was seen, a frame comes back: latents as they were, but for the rounding of what is kept.
        assert float((told[name].latents / told[name].visible.unsqueeze(1) - latents).abs().median()) < 0.02
        assert torch.allclose(told[name].depths / told[name].visible, frame.cell_depth, rtol=0.02)
    # The cloud's way round by pixels ends at the same latents: its encoder is theirs.
    assert float((told["rgb_cloud"].latents - latents).abs().median()) < 0.05
    weights = [memory.decoder.state_dict() for memory in memories]
    assert all(torch.equal(values, other[name]) for other in weights[1:] for name, values in weights[0].items())


def test_bytes_are_those_of_all_tensors() -> None:
    config = BenchConfig(memory_budgets=(2**16,), model=SMALL)
    with torch.no_grad():
        cloud, memories = build(config, 64)
        worlds = {memory.name: (memory, memory.empty()) for memory in memories}
        for step in range(2):
            frame = film(step, 64, 2, "cpu")
            latents = encoded(cloud, frame.rgb, frame.camera)
            worlds = {name: (memory, memory.observe(world, frame, latents)) for name, (memory, world) in worlds.items()}
    channels = config.model.latent_dim
    memory, world = worlds["latent_append"]
    assert memory.bytes(world).occupied == memory.charged(world) == 2 * 32 * 32 * (7 + channels) + 12 + 8
    memory, world = worlds["latent_bounded"]
    slots = (2**16 - 16) // (21 + 2 * channels)
    assert memory.bytes(world).allocated == memory.charged(world) == slots * (21 + 2 * channels) + 16 <= 2**16
    assert memory.bytes(world).occupied < memory.charged(world)
    memory, world = worlds["rgb_cloud"]
    assert memory.bytes(world).occupied == memory.charged(world) == 16 * int(world.count[0]) + 8
    assert 64 * 64 < int(world.count[0]) <= 2 * 64 * 64


def test_every_memory_size_and_age_has_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_memory, "CALLS", 2)
    monkeypatch.setattr(bench_memory, "WARM_UP", 1)
    words = [*WORDS, "model.width=8", "model.widest=1", "threads=1", f"out={tmp_path}"]
    assert cli.main(["bench", "memory", *words]) == 0
    rows, ages = (list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("bench_memory", "bench_memory_age"))
    walked = [("4", "rgb_cloud"), ("4", "latent_append"), ("4", "latent_bounded"), ("8", "latent_bounded")]
    for table in (rows, ages):
        assert [(row["frames"], row["memory"]) for row in table if row["repeat"] == "0"] == walked
        assert len(table) == 8 and all(row["image_size"] == "32" and row["cpu"] and row["threads"] == "1" for row in table)
    for row in rows:
        stages = [row["render, ms"], row["encode again, ms"]] if row["memory"] == "rgb_cloud" else []
        assert all(float(row[f"{name}, ms"]) > 0 for name in ("read", "decode", "write", "frame")) and all(map(float, stages))
        assert 0.0 <= float(row["empty cells"]) <= float(row["holes"]) <= 1.0
    cloud, append = rows[0], rows[2]
    assert float(append["times smaller"]) == pytest.approx(int(cloud["bytes"]) / int(append["bytes"]), rel=1e-3)
    assert float(append["times faster"]) == pytest.approx(float(cloud["frame, ms"]) / float(append["frame, ms"]), rel=1e-3)
    assert float(append["reads, times faster"]) == pytest.approx(float(cloud["read, ms"]) / float(append["read, ms"]), rel=1e-3)
    assert float(append["times smaller than all pixels"]) == pytest.approx(4 * 32 * 32 * 16 / int(append["bytes"]), rel=1e-3)
    for row in ages:
        ratio = float(row["last tenth, ms"]) / float(row["first tenth, ms"])
        assert float(row["last / first"]) == pytest.approx(ratio, rel=1e-3)
    shown = capsys.readouterr().out
    assert "left out (memory_growing_frames=4): 8 frames of memories that grow" in shown and "aim" in shown


def test_a_budget_of_less_than_a_frame_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["memory_budgets=[1000]", "memory_sizes=[32]", "model.width=8", f"out={tmp_path}"]
    assert cli.main(["bench", "memory", *words]) == 2
    assert "holds 33 tokens of 29 bytes, fewer than the 1024 cells of one frame" in capsys.readouterr().err
    assert cli.main(["bench", "memory", "memory_frames=[]"]) == 2
    assert "memory_frames=[]: expected distinct numbers above 0" in capsys.readouterr().err
