"""Tensors on disk: any layout is written, and what was changed since, is not finite or fits nothing is refused in one line."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from embodied_liftwm import load
from embodied_liftwm.config import ModelConfig, RecurrentConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import SUMS, write_sums
from embodied_liftwm.tensor_tree import TensorTree
from embodied_liftwm.training.checkpoint import (
    begin_with,
    optimizer_tensors,
    path_of,
    read_resume,
    restore_optimizer,
    save_checkpoint,
)
from embodied_liftwm.weights import load_weights, read_tensors, read_weights, save_tensors
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model


@dataclasses.dataclass(frozen=True)
class Leaf(TensorTree):
    whole: Tensor
    part: Tensor
    nothing: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Tree(TensorTree):
    leaf: Leaf
    wide: Tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
                                   torch.bool, torch.complex64])  # fmt: skip
def test_views_of_one_tensor_are_written_as_they_are_seen(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = (torch.arange(24) % 2).reshape(2, 3, 4).to(dtype)
    tree = Tree(Leaf(whole, whole[:, 1:, ::2]), whole[:1].mT.expand(5, 4, 3))
    for kept in (tree, tree.index([1, 0]), tree.index(slice(0, 0)), tree.map(torch.clone)):
        kept.save(tmp_path / "state.safetensors")
        for name, found in kept.load(tmp_path / "state.safetensors").named_tensors().items():
            assert found.dtype == dtype
            assert torch.equal(found, kept.named_tensors()[name])


def test_conjugates_are_numbers_and_what_the_format_lacks_is_said(tmp_path: Path) -> None:
    turned = torch.tensor([1 + 2j]).conj()
    save_tensors(tmp_path / "a.safetensors", {"turned": turned, "imaginary": turned.imag})
    assert read_tensors(tmp_path / "a.safetensors")["turned"].tolist() == [1 - 2j]
    assert read_tensors(tmp_path / "a.safetensors")["imaginary"].tolist() == [-2.0]
    with pytest.raises(UserError, match="complex128"):
        Leaf(torch.zeros(1, dtype=torch.complex128), torch.zeros(1)).save(tmp_path / "b.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_state_of_another_class_is_named(tmp_path: Path) -> None:
    leaf = Leaf(torch.zeros(1), torch.ones(1))
    leaf.save(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a.safetensors is of another class: it holds .*, expected .*wide"):
        Tree(leaf, torch.ones(2)).load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("content", [
    b"", b"\x00", b"junk" * 20, struct.pack("<Q", 2**63), struct.pack("<Q", 90_000_000) + b"{}", struct.pack("<Q", 2) + b"{}x",
    struct.pack("<Q", 60_000) + b"[" * 60_000,
    *(struct.pack("<Q", len(head)) + head for head in (
        b'{"a": 3}', b"[]", b"null", b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}',
    )),
])  # fmt: skip
def test_junk_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    for read in (read_tensors, lambda path: Leaf(torch.zeros(1), torch.zeros(1)).load(path)):
        with pytest.raises(UserError, match="not a readable safetensors file") as caught:
            read(path)
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_nothing_there_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(UserError, match="not a readable"):
            read_tensors(path)


def tiny_model() -> nn.Module:
    return build_model(ModelConfig(memory="recurrent", width=8, recurrent=RecurrentConfig(units=32)), ModelShapes(32, 2, 9))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model, with its optimiser."""
    run = tmp_path_factory.mktemp("run")
    model = tiny_model()
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    return save_checkpoint(run, 3, model, optimizer_tensors(optimizer), {"seconds": 1.5})


@pytest.fixture
def checkpoint(written: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    copy = path_of(tmp_path / "run", 3)
    copy.mkdir(parents=True)
    for path in written.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def read_all(checkpoint: Path) -> None:
    load(str(checkpoint))
    read_resume(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "model.json", "state.json", SUMS])
def test_no_changed_byte_passes(checkpoint: Path, name: str) -> None:
    """One flipped bit anywhere: in the data, which any number would fit, and in headers."""
    read_all(checkpoint)
    draw, path = np.random.default_rng(5), checkpoint / name
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8 if path.suffix == ".safetensors" else len(whole)
    places = [*draw.integers(len(whole), size=25), *draw.integers(header, size=10), 0, len(whole) - 1]
    for place in places if name != SUMS else [p for p in places if not _names_another(whole, p)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(changed)
        with pytest.raises(UserError) as caught:
            read_all(checkpoint)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    read_all(checkpoint)


def _names_another(sums: bytes, place: int) -> bool:
    """Whether a byte of SHA256SUMS is the end of a line, which may be written otherwise."""
    return sums[place : place + 1] == b"\n"


def test_checkpoints_of_older_versions_load_if_they_are_finite(checkpoint: Path) -> None:
    (checkpoint / SUMS).unlink()
    read_all(checkpoint)
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.numel() > 4)
    for bad in (float("nan"), float("inf")):
        tensors[name].view(-1)[2] = bad
        save_file(tensors, path)
        with pytest.raises(UserError, match=f"1 of the {tensors[name].numel()} numbers of tensor '{name}' are NaN or infinite"):
            load(str(checkpoint))
        with pytest.raises(UserError, match="NaN or infinite"):
            begin_with(tiny_model(), str(checkpoint))


def test_a_wrong_record_is_named(checkpoint: Path) -> None:
    path = checkpoint / SUMS
    for content in (b"", b"\xff\xfe", b"nothing", path.read_bytes() * 2):
        path.write_bytes(content)
        with pytest.raises(UserError, match=SUMS):
            load(str(checkpoint))


@pytest.mark.parametrize("text", [
    "[" * 200_000, "null", "[]", "{", '{"step": null, "seconds": 1}', '{"step": 3}', '{"step": 4, "seconds": 1}',
    '{"step": 3, "seconds": NaN}', '{"step": 3, "seconds": 1e999}',
])  # fmt: skip
def test_a_state_that_is_none_says_how_the_run_goes_on(checkpoint: Path, text: str) -> None:
    (checkpoint / SUMS).unlink()
    (checkpoint / "state.json").write_text(text)
    with pytest.raises(UserError, match=r"damaged.*remove it, and the run goes on from the one before"):
        read_resume(checkpoint)


@pytest.mark.parametrize("change", [
    lambda d: d | {"model": [1]}, lambda d: d | {"model": d["model"] | {"width": "8"}}, lambda d: {"model": d["model"]},
    lambda d: d | {"shapes": d["shapes"] | {"action_dim": -2}}, lambda d: d | {"shapes": d["shapes"] | {"action_dim": 10**18}},
    lambda d: d | {"shapes": d["shapes"] | {"image_size": None}}, lambda d: d | {"model": d["model"] | {"widht": 8}},
    lambda d: [d], lambda d: 3, lambda d: d | {"model": d["model"] | {"patches": 3}},
    lambda d: d | {"model": d["model"] | {"patches": 3, "budget": 64}},
])  # fmt: skip
def test_a_description_of_no_model_is_one_line(checkpoint: Path, change: Callable) -> None:
    path = checkpoint / "model.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=r"model\.json does not describe a model of this version|another architecture"):
        load(str(checkpoint))


def test_tensors_that_fit_nothing_are_named_with_the_nearest(tmp_path: Path) -> None:
    network, path = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), tmp_path / "model.safetensors"
    stored = network.state_dict()
    cases = {
        r"lacks tensor '0\.bias' \(the nearest is '0\.ibas'\)": {n.replace("0.bi", "0.ib"): t for n, t in stored.items()},
        r"lacks tensor '1\.bias': these": {name: t for name, t in stored.items() if name != "1.bias"},
        r"has an extra tensor 'more': these": stored | {"more": torch.zeros(1)},
        r"'0\.weight' is float32 \[2, 3\], expected float32 \[3, 2\]": stored | {"0.weight": stored["0.weight"].T},
        r"'0\.weight' is int32 \[3, 2\], expected float32": stored | {"0.weight": stored["0.weight"].int()},
        r"'1\.num_batches_tracked' is float32 \[\], expected int64": stored | {"1.num_batches_tracked": torch.tensor(1.0)},
    }
    for words, tensors in cases.items():
        save_tensors(path, tensors)
        with pytest.raises(UserError, match=words):
            load_weights(network, path)
    save_tensors(path, {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in stored.items()})
    write_sums(tmp_path)
    load_weights(network, path)
    assert all(tensor.isfinite().all() for tensor in read_weights(path).values())


def test_moments_of_another_training_are_refused() -> None:
    network = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(network.parameters())
    for name, tensor in (("2.exp_avg", torch.zeros(3)), ("x", torch.zeros(3)), ("0.exp_avg", torch.zeros(2, 3))):
        with pytest.raises(UserError, match="fits no parameter"):
            restore_optimizer(optimizer, {name: tensor})


def last_byte_changed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"\xff" * 99), Path.unlink, last_byte_changed])
def test_weights_that_are_damaged_say_how_the_run_goes_on(checkpoint: Path, spoil: Callable[[Path], object]) -> None:
    spoil(checkpoint / "model.safetensors")
    with pytest.raises(UserError, match=r"damaged \(.*model.safetensors.*\): remove it, and the run goes on from the"):
        read_resume(checkpoint)
