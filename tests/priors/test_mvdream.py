"""The MVDream adapter on a tiny checkpoint in the public one's layout, its network against the original code's answers."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.se3 import look_at
from embodied_liftwm.priors.contract import Clip, NovelViews, PriorOptions
from embodied_liftwm.priors.generative.mvdream import CARD, CONFIDENCE, MVDream
from embodied_liftwm.priors.generative.mvdream_unet import camera_embedding, load_unet
from embodied_liftwm.priors.registry import open_prior

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

LAYOUT = json.loads((Path(__file__).parent / "mvdream_layout.json").read_text())
"""Settings of a tiny MultiViewUNetModel, and the names and shapes of its tensors as the original code saves them."""
ORIGINAL = [-0.091023, -0.132944, 0.005244, -0.080335, -0.057781, -0.180263, -0.240504, -0.028156]
"""What that class answers at channel 1, row 3, column 4 of eight views with the weights and inputs of `numbers`: computed once
with the model's public code (ashawkey/mvdream_diffusers, mv_unet.py), its xformers call replaced by torch's attention."""
STEPS = 2


def numbers(name: str, shape: list[int]) -> torch.Tensor:
    """Noise that is a formula: the same in any library, whatever its generators. Variance 1 over the inputs of a unit."""
    count = math.prod(shape)
    x = (torch.arange(count, dtype=torch.float64) * 12.9898 + zlib.crc32(name.encode()) % 1009).sin() * 43758.5453
    inputs = count // shape[0] if len(shape) > 1 else 12
    return ((x - x.floor() - 0.5) * (12 / inputs) ** 0.5).reshape(shape).float()


def blender_cameras(elevation_deg: float) -> torch.Tensor:
    """Four cameras a quarter turn apart as the public code has them: y-up poses, then y and z exchanged, z negated. [4, 16]"""
    cameras = []
    for k in range(4):
        e, a = math.radians(elevation_deg), k * math.pi / 2
        eye = torch.tensor([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
        right = torch.linalg.cross(torch.tensor([0.0, 1, 0]), eye)
        right = right / right.norm()
        pose = torch.eye(4)
        pose[:3] = torch.stack([right, torch.linalg.cross(eye, right), eye, eye], dim=1)
        cameras.append(pose[[0, 2, 1, 3]] * torch.tensor([1.0, -1, 1, 1])[:, None])
    return torch.stack(cameras).flatten(1)


def save_tiny(folder: Path) -> PriorOptions:
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/config.json").write_text(json.dumps({"_class_name": "MultiViewUNetModel", **LAYOUT["config"]}))
    # Attention across views counts for more than chance would have it: what depends on it is to be seen.
    weights = {k: numbers(k, shape) * (4 if ".attn1.to_" in k else 1) for k, shape in LAYOUT["shapes"].items()}
    save_file(weights, folder / "unet/diffusion_pytorch_model.safetensors")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 16),
        norm_num_groups=4, sample_size=16,
    ).save_pretrained(folder / "vae")  # fmt: skip
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    tokens = [*letters, "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/vocab.json").write_text(json.dumps({token: k for k, token in enumerate(tokens)}))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer/tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "model_max_length": 16}')
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1, pad_token_id=len(tokens) - 1,
    )  # fmt: skip
    transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False,
        set_alpha_to_one=False,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    (folder / "model_index.json").write_text('{"_class_name": "MVDreamPipeline"}')
    return PriorOptions(weights=str(folder), batch_size=8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> PriorOptions:
    return save_tiny(tmp_path_factory.mktemp("hub") / "mvdream-sd2.1-diffusers")


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Two frames that look down by 20 and by 0 degrees from one place: how far they look is guessed to be 2 m."""
    rgb = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    eye = torch.tensor([1.0, 2.0, 1.5]).expand(2, 3)
    ahead = torch.tensor([[1.0, 0.0, -math.tan(math.radians(20))], [0.0, 2.0, 0.0]])
    return Clip(rgb, torch.tensor([[26.0, 0, 24], [0, 26, 16], [0, 0, 1]]), look_at(eye, eye + ahead))


def observe(options: PriorOptions, clip: Clip) -> NovelViews:
    views = MVDream(Path(options.weights), options, steps=STEPS).observe(clip).views
    assert views is not None
    return views


def test_the_network_answers_as_the_original_does(tiny: PriorOptions) -> None:
    unet = load_unet(Path(tiny.weights) / "unet")
    noisy, text = 8 * numbers("x", [8, 4, 8, 8]), 5 * numbers("text", [8, 5, 12])
    cameras = blender_cameras(15).repeat(2, 1)
    with torch.no_grad():
        answer = unet(noisy, torch.tensor(321), encoder_hidden_states=text, class_labels=cameras).sample
        apart = load_unet(Path(tiny.weights) / "unet", views=1)
        alone = apart(noisy, torch.tensor(321), encoder_hidden_states=text, class_labels=cameras).sample
    torch.testing.assert_close(answer[:, 1, 3, 4], torch.tensor(ORIGINAL), rtol=0, atol=1e-5)
    assert (answer - alone).abs().max() > 1e-3  # the views of a set see each other
    changed = noisy.clone()
    changed[0] += 1
    with torch.no_grad():
        other = unet(changed, torch.tensor(321), encoder_hidden_states=text, class_labels=cameras).sample
    assert (other[1:4] != answer[1:4]).flatten(1).any(1).all() and torch.equal(other[4:], answer[4:])  # but no other set


def test_cameras_are_told_as_the_original_tells_them() -> None:
    for elevation in (0.0, 15.0, 30.0):
        told = camera_embedding(torch.full((4,), math.radians(elevation)), torch.arange(4) * math.pi / 2)
        torch.testing.assert_close(told, blender_cameras(elevation), rtol=0, atol=1e-6)


def test_views_lie_a_quarter_turn_apart(tiny: PriorOptions, clip: Clip) -> None:
    views = observe(tiny, clip)
    assert views.rgb.shape == (6, 3, 32, 48) and views.rgb.dtype == torch.float32
    assert views.frames.tolist() == [0, 0, 0, 1, 1, 1] and views.rgb.min() >= 0 and views.rgb.max() <= 1
    told = camera_embedding(torch.full((4,), math.radians(20)), torch.arange(4) * math.pi / 2).unflatten(1, (4, 4))[:, :3, 3]
    frame = clip.world_from_camera[0]
    point = frame[:3, 3] + 2.0 * frame[:3, 2]
    around = torch.stack([frame[:3, 3], *views.world_from_camera[:3, :3, 3]]) - point
    # The frame is the first view: a turn about z takes what the network is told to where the cameras stand.
    angle = torch.atan2(around[0, 1], around[0, 0]) - torch.atan2(told[0, 1], told[0, 0])
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]])
    torch.testing.assert_close(around, 2.0 * told @ turn.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(views.world_from_camera[:3, :3, 2], -around[1:] / 2, rtol=0, atol=1e-5)  # they look at it
    # A half angle of 30 degrees is 15.01 pixels of 26.
    drawn = torch.zeros(32, 48)
    drawn[1:31, 9:39] = 0.25 * CONFIDENCE  # the distance was guessed
    assert torch.equal(views.confidence, drawn.expand(6, 32, 48))


def test_pictures_are_what_the_formulas_give(tiny: PriorOptions, clip: Clip) -> None:
    """Two steps of DDIM by its equation on the second frame, which looks level; the first view is held at the noised frame."""
    folder = Path(tiny.weights)
    unet, vae = load_unet(folder / "unet"), diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder")
    letters = {c: k for k, c in enumerate("abcdefghijklmnopqrstuvwxyz")}
    words = [letters[c] + 26 * (k == len(word) - 1) for word in ("an", "indoor", "room") for k, c in enumerate(word)]
    ids = [52, *words, 53, 53, 53]  # start, twelve letters, end; the end fills up to 16
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    picture = torch.nn.functional.interpolate(clip.rgb[1:, :, 1:31, 9:39], (16, 16), mode="bilinear", antialias=True)
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    with torch.no_grad():
        free, told = (encoder(torch.tensor([x])).last_hidden_state.expand(4, -1, -1) for x in ([52] + [53] * 15, ids))
        known, latents = 0.18215 * vae.encode(2 * picture - 1).latent_dist.mean[0], noise
        for time, before in ((501, 1), (1, 0)):
            latents[0] = alphas[time].sqrt() * known + (1 - alphas[time]).sqrt() * noise_of_frame(1)
            answers = [unet(latents, time, text, class_labels=blender_cameras(0)).sample for text in (free, told)]
            noise_in_it = answers[0] + 7 * (answers[1] - answers[0])
            clean = (latents - (1 - alphas[time]).sqrt() * noise_in_it) / alphas[time].sqrt()
            latents = alphas[before].sqrt() * clean + (1 - alphas[before]).sqrt() * noise_in_it
        drawn = (vae.decode(latents[1:] / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    expected = torch.nn.functional.interpolate(drawn, (30, 30), mode="bilinear", antialias=True)
    assert expected.std() > 0.01
    torch.testing.assert_close(observe(tiny, clip).rgb[3:, :, 1:31, 9:39], expected, rtol=0, atol=1e-3)


def noise_of_frame(seed: int) -> torch.Tensor:
    return torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(seed))[0]


def test_batches_seeds_prompts_and_the_frame(tiny: PriorOptions, clip: Clip) -> None:
    views, again, alone = observe(tiny, clip), observe(tiny, clip), observe(replace(tiny, batch_size=1), clip)
    assert torch.equal(views.rgb, again.rgb)
    torch.testing.assert_close(views.rgb, alone.rgb, rtol=0, atol=1e-4)
    for other in (replace(tiny, seed=1), replace(tiny, prompt="a garden")):
        assert (views.rgb - observe(other, clip).rgb).abs().max() > 1e-4
    darker = observe(tiny, clip._replace(rgb=clip.rgb * torch.tensor([0.2, 1.0])[:, None, None, None]))
    assert (darker.rgb[:3] - views.rgb[:3]).abs().max() > 1e-4  # what the frame shows reaches the other views
    torch.testing.assert_close(darker.rgb[3:], views.rgb[3:], rtol=0, atol=1e-5)

    def fingerprint(**changes: Any) -> str:
        options = replace(tiny, **changes)
        return MVDream(Path(options.weights), options).fingerprint()

    assert fingerprint() == fingerprint(batch_size=4) != fingerprint(prompt="a garden")


def test_what_is_missing_or_of_another_model_is_said_in_one_line(
    tiny: PriorOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not CARD.non_commercial
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="prior mvdream: the weights ashawkey/mvdream-sd2.1-diffusers are not on this machine"):
        open_prior("mvdream", PriorOptions())
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="lacks scheduler/scheduler_config.json, unet/config.json, .*tokenizer/vocab.json"):
        open_prior("mvdream", PriorOptions(weights=str(tmp_path)))
    config = tmp_path / "config.json"
    config.write_text('{"_class_name": "UNet2DConditionModel", "in_channels": 4}')
    with pytest.raises(UserError, match="lacks model_channels, .* expected MVDream's network, class MultiViewUNetModel"):
        load_unet(tmp_path)
    config.write_text(json.dumps({**LAYOUT["config"], "ip_dim": 16}))
    with pytest.raises(UserError, match="has image prompts"):
        load_unet(tmp_path)
    config.write_text(json.dumps(LAYOUT["config"]))
    for suffix in ("bin", "safetensors"):  # the second is taken first
        (tmp_path / f"diffusion_pytorch_model.{suffix}").write_bytes(b"PK\x03\x04 cut")
        with pytest.raises(UserError, match=f"diffusion_pytorch_model.{suffix} is not a readable"):
            load_unet(tmp_path)
    save_file({"conv_in.weight": torch.zeros(2)}, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="its weights are not those of MVDream's network"):
        load_unet(tmp_path)
