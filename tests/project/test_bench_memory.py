"""`liftwm bench memory` at tiny sizes: what it measures, counts and writes, not how fast it is."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from embodied_liftwm import cli
from embodied_liftwm.bench import memory as bench_memory
from embodied_liftwm.bench.memory_parts import Made, RawFrames, build, encoded, new_watch
from embodied_liftwm.bench.memory_room import CORNERS_M, camera_of, film, render
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
        encoder, memories = build(config, 64)
        latents = encoded(encoder, frame.rgb, frame.camera)
        told = {}
        for memory in memories:
            world = memory.observe(memory.empty(), frame, latents)
            told[memory.name] = memory.read(world, frame.camera, new_watch("cpu"))
    assert set(told) == {"rgb_cloud", "latent_append", "latent_bounded", "patches", "context"}
    for name in ("latent_append", "latent_bounded"):
        # Read from where it was seen, a frame comes back: latents as they were, but for the rounding of what is kept.
        assert float((told[name].features / told[name].visible.unsqueeze(1) - latents).abs().median()) < 0.02
        assert torch.allclose(told[name].depth / told[name].visible, frame.cell_depth, rtol=0.02)
    # The cloud's way round by pixels ends at the same latents: its encoder is theirs.
    assert float((told["rgb_cloud"].features - latents).abs().median()) < 0.05
    weights = [memory.decoder.state_dict() for memory in memories if memory.name != "patches"]
    assert all(torch.equal(values, other[name]) for other in weights[1:] for name, values in weights[0].items())


def test_bytes_are_those_of_all_tensors() -> None:
    config = BenchConfig(memory_budgets=(2**16,), model=SMALL)
    with torch.no_grad():
        encoder, memories = build(config, 64)
        worlds = {memory.name: (memory, memory.empty()) for memory in memories}
        for step in range(2):
            frame = film(step, 64, 2, "cpu")
            latents = encoded(encoder, frame.rgb, frame.camera)
            worlds = {name: (memory, memory.observe(world, frame, latents)) for name, (memory, world) in worlds.items()}
    channels = config.model.latent_dim
    memory, world = worlds["latent_append"]
    assert memory.bytes(world).occupied == memory.bytes(world).charged == 2 * 32 * 32 * (7 + channels) + 12 + 8
    memory, world = worlds["latent_bounded"]
    slots = (2**16 - 16) // (21 + 2 * channels)
    assert memory.bytes(world).allocated == memory.bytes(world).charged == slots * (21 + 2 * channels) + 16 <= 2**16
    assert memory.bytes(world).occupied < memory.bytes(world).charged
    memory, world = worlds["rgb_cloud"]
    assert memory.bytes(world).occupied == memory.bytes(world).charged == 16 * int(world.count[0]) + 8
    assert 64 * 64 < int(world.count[0]) <= 2 * 64 * 64
    memory, world = worlds["context"]
    assert memory.bytes(world).occupied == memory.bytes(world).charged == 2 * (3 * 64 * 64 + 4 * 16) + 8 + 8
    assert memory.bytes(world).allocated > memory.bytes(world).charged  # room to grow is told, and not counted
    memory, world = worlds["patches"]
    texel = 4 * (1 + 3 + channels + 1)
    patch = 8 * (3 + 1 + 1) + config.model.patches.texels**2 * texel
    assert memory.budget == memory.bytes(world).charged == memory.bytes(world).allocated
    assert memory.budget == config.model.patches.budget * patch + 8
    assert memory.bytes(world).occupied == int(world.occupied.sum()) * patch + 8 < memory.budget


def test_patches_and_raw_frames_are_read_as_their_models_read_them() -> None:
    config = BenchConfig(model=SMALL)
    watch = new_watch("cpu")
    with torch.no_grad():
        encoder, memories = build(config, 64)
        after = film(6, 64, 2, "cpu")
        for memory in memories:
            if memory.name not in ("patches", "context"):
                continue
            world = memory.empty()
            for step in range(6):
                frame = film(step, 64, 2, "cpu")
                world = memory.observe(world, frame, encoded(encoder, frame.rgb, frame.camera))
            made = memory.decode(memory.read(world, after.camera, watch), after.camera)
            model = memory.frames if isinstance(memory, RawFrames) else memory.model
            view = model.render(replace(model.initial_state(1), world=world), after.camera)
            assert torch.allclose(made.rgb, view.rgb, atol=1e-5)
            assert float(made.rgb.std()) > 0.02  # of what is remembered, not of nothing
            if memory.name == "patches":  # what was splatted is already near the truth, untrained
                assert float((made.rgb - after.rgb).square().mean()) < 0.25 * float((0.5 - after.rgb).square().mean())


def test_generated_frames_leave_raw_frames_as_they_were() -> None:
    config = BenchConfig(model=SMALL)
    with torch.no_grad():
        memory = next(memory for memory in build(config, 64)[1] if isinstance(memory, RawFrames))
        frames = [film(step, 64, 2, "cpu") for step in range(4)]
        world = memory.empty()
        for frame in frames[:2]:
            world = memory.observe(world, frame, frame.rgb)
        for shade in (0.0, 1.0):
            grown = memory.write(world, Made(torch.full_like(frames[2].rgb, shade), None), frames[2], new_watch("cpu"))
            assert int(grown.count) == 3 and grown.rgb.data_ptr() == world.rgb.data_ptr()  # nothing older was copied
        assert int(world.count) == 2
        went_on = memory.observe(world, frames[3], frames[3].rgb)
    for k, shown in enumerate((frames[0], frames[1], frames[3])):
        assert torch.allclose(went_on.rgb[0, k] / 255.0, shown.rgb[0], atol=1 / 255)


def test_every_memory_size_and_age_has_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_memory, "CALLS", 2)
    monkeypatch.setattr(bench_memory, "WARM_UP", 1)
    words = [*WORDS, "model.width=8", "model.widest=1", "threads=1", f"out={tmp_path}"]
    assert cli.main(["bench", "memory", *words]) == 0
    rows, ages = (list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("bench_memory", "bench_memory_age"))
    walked = [("4", memory) for memory in ("rgb_cloud", "latent_append", "latent_bounded", "patches", "context")]
    walked += [("8", memory) for memory in ("latent_bounded", "patches", "context")]
    for table in (rows, ages):
        assert [(row["frames"], row["memory"]) for row in table if row["repeat"] == "0"] == walked
        assert len(table) == 16 and all(row["image_size"] == "32" and row["cpu"] and row["threads"] == "1" for row in table)
    own = {"rgb_cloud": ["render", "encode again"], "context": ["encode again"], "patches": ["encode to write"]}
    for row in rows:
        times = {name: float(row[f"{name}, ms"]) for name in ("read", "decode", "write", "frame", *own.get(row["memory"], []))}
        assert min(times.values()) > 0
        parts = {"read": times.get("render", 0) + times.get("encode again", 0), "write": times.get("encode to write", 0)}
        assert all(part <= 1.001 * times[name] for name, part in parts.items())  # but for rounding
        if row["memory"] == "context":
            assert row["empty cells"] == row["holes"] == ""
        else:
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
    assert "32 x 32 pixels" in shown and "timing after 8 frames" in shown


def test_a_budget_of_less_than_a_frame_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["memory_budgets=[1000]", "memory_sizes=[32]", "model.width=8", f"out={tmp_path}"]
    assert cli.main(["bench", "memory", *words]) == 2
    assert "holds 33 tokens of 29 bytes, fewer than the 1024 cells of one frame" in capsys.readouterr().err
    assert cli.main(["bench", "memory", "memory_frames=[]"]) == 2
    assert "memory_frames=[]: expected distinct numbers" in capsys.readouterr().err
