"""Patches: where their texels are, how they are told apart, and that a state of them keeps its bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from embodied_liftwm.memory.patches.map import (
    HIDDEN,
    MAX_LEVEL,
    NOWHERE,
    OFFSET,
    TEXEL_M,
    Patches,
    PatchMap,
    level_of,
    patch_keys,
    texel_m,
    texel_points,
    unpack_keys,
)
from tests.memory.rooms import camera, nothing, write


def test_keys_are_distinct_and_unpack_to_what_was_packed():
    edges = torch.tensor([-OFFSET, -1, 0, 1, OFFSET - 1])
    levels = torch.tensor([0, 1, MAX_LEVEL])
    x, y, z, faces, levels = torch.cartesian_prod(edges, edges, edges, torch.arange(2 * HIDDEN), levels).unbind(1)
    cells = torch.stack([x, y, z], dim=1)
    keys = patch_keys(cells, faces, levels)
    assert len(keys.unique()) == len(keys)
    assert int(keys.min()) >= 0 and int(keys.max()) < NOWHERE
    for found, packed in zip(unpack_keys(keys), (cells, faces, levels), strict=True):
        assert torch.equal(found, packed)


def test_free_patches_have_no_key():
    world = write(nothing(), camera((-1.0, 0.0, 1.3)))
    assert torch.equal(world.keys() != NOWHERE, world.occupied)
    found = world.keys()[world.occupied]
    assert 0 < len(found) == len(found.unique())


@pytest.mark.parametrize("face", range(2 * HIDDEN))
@pytest.mark.parametrize("level", [0, 1, 5])
def test_texels_lie_where_their_cube_and_face_say(face: int, level: int):
    """Faces 0 and 1 stand on the yz plane, 2 and 3 on zx, 4 and 5 on xy: columns first, rows second; 6 more behind."""
    side, cell = 3, [2, -5, 7]
    heights = torch.linspace(-1.0, 2.0, side * side, dtype=torch.float64)[None]
    found = texel_points(torch.tensor([cell]), torch.tensor([face]), torch.tensor([level]), heights)[0].numpy()
    height, column, row = {0: "xyz", 1: "yzx", 2: "zxy"}[face % HIDDEN // 2]
    size = 0.02 * np.sqrt(2.0) ** level
    expected = np.zeros((side * side, 3))
    for m in range(side * side):
        expected[m, "xyz".index(height)] = heights[0, m]
        expected[m, "xyz".index(column)] = (cell["xyz".index(column)] * side + m % side + 0.5) * size
        expected[m, "xyz".index(row)] = (cell["xyz".index(row)] * side + m // side + 0.5) * size
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_levels_are_of_the_nearest_texel_size():
    sizes = TEXEL_M * torch.tensor([0.1, 1.0, 1.15, 1.25, 1.5, 2.0, 2.1, 1e9])
    assert level_of(sizes).tolist() == [0, 0, 0, 1, 1, 2, 2, MAX_LEVEL]
    levels = torch.arange(MAX_LEVEL + 1)
    assert torch.equal(level_of(texel_m(levels, sizes)), levels)


def test_mean_heights_are_of_texels_that_are_there():
    heights = torch.tensor([[1.0, 2.0, 9.0, 9.0], [5.0, 5.0, 5.0, 5.0]])
    evidence = torch.tensor([[0.1, 7.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    blank = torch.zeros(2, 4, 3)
    patches = Patches(torch.zeros(2, 3), torch.zeros(2), torch.zeros(2), heights, blank, blank, evidence)
    assert patches.mean_heights().tolist() == [1.5, 0.0]


def test_a_map_survives_saving_bit_for_bit(tmp_path: Path):
    world = write(nothing(), camera((-1.0, 0.0, 1.3)), latents=torch.rand(1, 2, 24, 24))
    world = replace(world, finest=torch.tensor([3]))
    world.save(tmp_path / "map.safetensors")
    loaded = nothing().load(tmp_path / "map.safetensors")
    assert isinstance(loaded, PatchMap) and bool(loaded.occupied.any())
    for name, tensor in world.named_tensors().items():
        assert torch.equal(loaded.named_tensors()[name], tensor), name


def test_a_patch_of_8_x_8_texels_costs_what_the_page_on_concepts_says():
    """Height, evidence, colour and 4 latents in float32 a texel; cube, face and level in int64 a patch; one level a row."""
    one, two = (PatchMap.empty(1, budget, 8, 4, torch.zeros(())).nbytes() for budget in (1, 2))
    assert two - one == 64 * 9 * 4 + 5 * 8 == 2344
    assert PatchMap.empty(3, 512, 8, 4, torch.zeros(())).nbytes() == 3 * (512 * 2344 + 8)
