"""The Depth Anything adapter against the real library, on a tiny random model saved in the library's own format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embodied_liftwm.errors import UserError
from embodied_liftwm.priors import hub
from embodied_liftwm.priors.contract import Clip, PriorOptions
from embodied_liftwm.priors.geometric.depth_anything import CARD, agreement, licence_of, to_frame_size
from embodied_liftwm.priors.registry import open_prior

transformers = pytest.importorskip("transformers")

SIZE = 24, 40  # of the frames: neither square nor a multiple of the patches


def save_tiny(folder: Path, kind: str = "relative") -> PriorOptions:
    """A model of the real class with 16 channels and patches of 14, its output far enough from the ReLU's zero."""
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=42, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=8, depth_estimation_type=kind, max_depth=20 if kind == "metric" else 1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.DepthAnythingForDepthEstimation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.head.conv3.bias.fill_(1.0)
    model.save_pretrained(folder)
    # What preprocessor_config.json of the public checkpoints says, but for the size: 518 there.
    transformers.DPTImageProcessorPil(
        size={"height": 42, "width": 42}, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)  # fmt: skip
    return PriorOptions(weights=str(folder), batch_size=4)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> PriorOptions:
    return save_tiny(tmp_path_factory.mktemp("hub") / "Depth-Anything-V2-Small-hf")


@pytest.fixture(scope="module")
def clip() -> Clip:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 3, *SIZE), dtype=np.uint8)
    return Clip(torch.from_numpy(rgb).float() / 255, torch.eye(3), torch.eye(4).expand(5, 4, 4))


def library_says(options: PriorOptions, rgb: torch.Tensor) -> torch.Tensor:
    """One frame through the library's documented steps and Pillow's own resizing. [3, H, W] -> [H, W]"""
    from PIL import Image

    model = transformers.DepthAnythingForDepthEstimation.from_pretrained(options.weights)
    image = Image.fromarray((rgb * 255).round().byte().permute(1, 2, 0).numpy())
    # 42 rows asked of 24 x 40: width scales least (42 / 40), and 24 * 1.05 = 25.2 rows round to 28.
    resized = np.asarray(image.resize((42, 28), Image.Resampling.BICUBIC), np.float32) / 255
    normal = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]  # ImageNet's
    with torch.no_grad():
        depth = model(torch.from_numpy(normal).float().permute(2, 0, 1)[None]).predicted_depth
    assert depth.shape == (1, 28, 42)
    resized_back = torch.nn.functional.interpolate(depth[:, None], SIZE, mode="bicubic", align_corners=False)
    return resized_back[0, 0].clamp_min(0)


def test_depth_is_the_models_own_at_the_frames_size(small: PriorOptions, clip: Clip) -> None:
    depth = open_prior("depth_anything", small).observe(clip).depth
    assert depth is not None and depth.convention == "affine_inverse"
    assert depth.values.shape == depth.confidence.shape == (5, *SIZE)
    assert depth.values.dtype == depth.confidence.dtype == torch.float32
    assert depth.frames.tolist() == [0, 1, 2, 3, 4]
    assert depth.values.std() > 1e-3  # the model answers something
    for k in (0, 4):
        torch.testing.assert_close(depth.values[k], library_says(small, clip.rgb[k]), rtol=1e-4, atol=1e-5)


def test_confidence_is_agreement_with_the_mirrored_frame(small: PriorOptions, clip: Clip) -> None:
    prior = open_prior("depth_anything", small)
    depth = prior.observe(clip).depth
    assert depth is not None
    seen, mirrored = (library_says(small, rgb).double() for rgb in (clip.rgb[2], clip.rgb[2].flip(-1)))

    def standard(x: torch.Tensor) -> torch.Tensor:
        y = x - x.flatten().sort().values[(x.numel() - 1) // 2]
        return y / y.abs().mean()

    expected = torch.exp(-10 * (standard(seen) - standard(mirrored).flip(-1)).abs())
    torch.testing.assert_close(depth.confidence[2].double(), expected, rtol=1e-2, atol=1e-3)
    assert ((depth.confidence >= 0) & (depth.confidence <= 1)).all()
    symmetric = clip.rgb.clone()
    symmetric[..., SIZE[1] // 2 :] = symmetric[..., : SIZE[1] // 2].flip(-1)
    sure = prior.observe(clip._replace(rgb=symmetric)).depth
    assert sure is not None and sure.confidence.mean() < 1  # the model itself is not symmetric
    assert (sure.confidence - sure.confidence.flip(-1)).abs().max() < 1e-3  # but the question is


def test_agreement_forgives_what_the_convention_leaves_open() -> None:
    inverse = torch.rand(2, 6, 8) + 0.5
    torch.testing.assert_close(agreement(inverse, 3 * inverse + 2, "affine_inverse"), torch.ones(2, 6, 8), rtol=0, atol=1e-4)
    torch.testing.assert_close(agreement(inverse, 1.25 * inverse, "metric"), torch.full((2, 6, 8), float(np.exp(-2.0))))
    assert (agreement(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), "metric") == 0).all()


def test_maps_keep_their_place_when_resized() -> None:
    """A map that is its own column's centre in the frame's pixels must still be so at the frame's size."""
    processor = transformers.DPTImageProcessorPil()
    for height, width in ((12, 20), (48, 80)):
        columns = (torch.arange(42) + 0.5) * width / 42
        output = transformers.modeling_outputs.DepthEstimatorOutput(predicted_depth=columns.expand(2, 28, 42))
        found = to_frame_size(output, processor, (height, width))
        inside = slice(width // 10, -(width // 10))  # bicubic weights are cut off at the border
        expected = (torch.arange(width) + 0.5).expand(2, height, width)
        # These bicubic weights bend a straight line by less than 0.1; corners taken for centres would move it by 0.2 and more.
        torch.testing.assert_close(found[..., inside], expected[..., inside], rtol=0, atol=0.12)


def test_metric_checkpoints_give_metres(tmp_path: Path, clip: Clip) -> None:
    depth = open_prior("depth_anything", save_tiny(tmp_path / "Depth-Anything-V2-Metric-Indoor-Small-hf", "metric"))
    found = depth.observe(clip).depth
    assert found is not None and found.convention == "metric"
    assert (found.values > 0).all() and (found.values < 20).all() and found.values.max() > 2  # sigmoid times 20 m


def test_batches_do_not_change_the_answer(small: PriorOptions, clip: Clip) -> None:
    together, again = (open_prior("depth_anything", small).observe(clip).depth for _ in range(2))
    alone = open_prior("depth_anything", replace(small, batch_size=1)).observe(clip).depth
    assert together is not None and again is not None and alone is not None
    assert torch.equal(together.values, again.values) and torch.equal(together.confidence, again.confidence)
    torch.testing.assert_close(together.values, alone.values, rtol=1e-4, atol=1e-5)


def test_fingerprint_follows_the_weights(small: PriorOptions, tmp_path: Path) -> None:
    first = open_prior("depth_anything", small).fingerprint()
    assert first == open_prior("depth_anything", replace(small, batch_size=2)).fingerprint()
    assert len(first) == 16 and int(first, 16) >= 0
    other = save_tiny(tmp_path / "Depth-Anything-V2-Small-hf", "metric")
    assert first != open_prior("depth_anything", other).fingerprint()


def test_licence_is_read_from_the_name_and_named_before_use(tmp_path: Path, clip: Clip) -> None:
    assert licence_of("depth-anything/Depth-Anything-V2-Small-hf") == ("Apache-2.0", False)
    assert licence_of("depth-anything/Depth-Anything-V2-Metric-Outdoor-Large-hf") == ("CC-BY-NC-4.0", True)
    assert not CARD.non_commercial  # of the default weights
    base = save_tiny(tmp_path / "Depth-Anything-V2-Base-hf")
    with pytest.raises(UserError, match="licence is CC-BY-NC-4.0, which forbids commercial use; set accept_license=true"):
        open_prior("depth_anything", base)
    assert open_prior("depth_anything", replace(base, accept_license=True)).observe(clip).depth is not None
    unknown = save_tiny(tmp_path / "mine")
    with pytest.raises(UserError, match="unknown and taken for CC-BY-NC-4.0, since the name mine does not say"):
        open_prior("depth_anything", unknown)


def test_what_is_missing_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(weights: str) -> str:
        line = CARD.missing(PriorOptions(weights=weights))
        assert "\n" not in line
        return line

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "run `hf download depth-anything/Depth-Anything-V2-Small-hf`" in lacks("")
    assert "CC-BY-NC-4.0: it needs accept_license=true" in lacks("depth-anything/Depth-Anything-V2-Large-hf")
    assert "there is no such folder" in lacks(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{}")
    assert "lacks preprocessor_config.json, model.safetensors" in lacks(str(tmp_path))
    with pytest.raises(UserError, match="prior depth_anything: the weights .* are not on this machine"):
        open_prior("depth_anything", PriorOptions())
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    assert lacks("").startswith("it needs transformers: pip install 'embodied-liftwm[priors]'")


def test_hub_ids_are_found_in_the_local_cache(small: PriorOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache's layout as huggingface_hub writes it: refs/main names a snapshot."""
    repository = tmp_path / "models--depth-anything--Depth-Anything-V2-Small-hf"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0123abcd")
    (repository / "snapshots").mkdir()
    (repository / "snapshots/0123abcd").symlink_to(small.weights)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert CARD.missing(PriorOptions()) == ""
    prior: Any = open_prior("depth_anything", PriorOptions())
    assert prior.fingerprint() == open_prior("depth_anything", small).fingerprint()
