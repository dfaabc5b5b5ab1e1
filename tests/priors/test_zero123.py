"""The Zero-1-to-3 adapter against diffusers and transformers, on a tiny random checkpoint saved in the public one's layout."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.se3 import look_at
from embodied_liftwm.priors.contract import Clip, NovelViews, PriorOptions
from embodied_liftwm.priors.generative.zero123 import CARD, CONFIDENCE, MOVES_DEG, Zero123, clip_pixels, relative_move
from embodied_liftwm.priors.registry import open_prior

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

STEPS = 2  # of denoising, so that a test can take them by hand
MOVES = len(MOVES_DEG)


def save_tiny(folder: Path, in_channels: int = 8) -> PriorOptions:
    """Every part of the real class, as small as it goes: pictures of 16 x 16, tokens of 12 numbers."""

    class CCProjection(diffusers.ModelMixin, diffusers.ConfigMixin):
        """The layer's public form: its weights are called projection.weight and projection.bias."""

        config_name = "config.json"

        def __init__(self) -> None:
            super().__init__()
            self.projection = torch.nn.Linear(12 + 4, 12)

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=in_channels, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4, cross_attention_dim=12, attention_head_dim=2,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 16),
        norm_num_groups=4, sample_size=16,
    )  # fmt: skip
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
        projection_dim=12,
    )  # fmt: skip
    parts = {"unet": unet, "vae": vae, "image_encoder": transformers.CLIPVisionModelWithProjection(config)}
    parts["cc_projection"] = CCProjection()
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    # The public checkpoints carry the noise levels of Stable Diffusion under the name of another scheduler.
    diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text('{"_class_name": "Zero1to3StableDiffusionPipeline"}')
    return PriorOptions(weights=str(folder), batch_size=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> PriorOptions:
    return save_tiny(tmp_path_factory.mktemp("hub") / "zero123-xl")


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Two frames from one place: nothing tells how far their middle is, so it is taken to be 2 m away."""
    rgb = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    eye = torch.tensor([1.0, 2.0, 1.5]).expand(2, 3)
    ahead = torch.tensor([[1.6, 0.0, -0.2], [0.0, 2.0, 0.0]])
    return Clip(rgb, torch.tensor([[30.0, 0, 24], [0, 30, 16], [0, 0, 1]]), look_at(eye, eye + ahead))


def observe(options: PriorOptions, clip: Clip) -> NovelViews:
    views = Zero123(Path(options.weights), options, steps=STEPS).observe(clip).views
    assert views is not None
    return views


def library_draws(options: PriorOptions, picture: torch.Tensor, move: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The whole graph, step by step from the formulas: cc_projection by its file, DDIM by its equation. One view of [16, 16]"""
    from kornia.geometry import resize

    folder = Path(options.weights)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    encoder = transformers.CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
    layer = load_file(folder / "cc_projection/diffusion_pytorch_model.safetensors")
    shown = resize(2 * picture - 1, (28, 28), interpolation="bicubic", align_corners=True) / 2 + 0.5
    mean, deviation = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])  # CLIP's
    shown = (shown - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
    known = torch.cat([encoder(shown).image_embeds[0], move])
    token = (layer["projection.weight"] @ known + layer["projection.bias"]).reshape(1, 1, 12)
    beside = vae.encode(2 * picture - 1).latent_dist.mean
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    latents = noise
    for time, before in ((501, 1), (1, 0)):  # two steps of 500, each begun one later
        free = unet(torch.cat([latents, 0 * beside], 1), time, 0 * token).sample
        conditioned = unet(torch.cat([latents, beside], 1), time, token).sample
        noise_in_it = free + 3 * (conditioned - free)
        clean = (latents - (1 - alphas[time]).sqrt() * noise_in_it) / alphas[time].sqrt()
        latents = alphas[before].sqrt() * clean + (1 - alphas[before]).sqrt() * noise_in_it
    return (vae.decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1)


def test_views_lie_around_what_the_frame_looks_at(tiny: PriorOptions, clip: Clip) -> None:
    views = observe(tiny, clip)
    assert views.rgb.shape == (2 * MOVES, 3, 32, 48) and views.rgb.dtype == torch.float32
    assert views.frames.tolist() == [0] * MOVES + [1] * MOVES
    assert views.rgb.min() >= 0 and views.rgb.max() <= 1
    for k, pose in enumerate(views.world_from_camera):
        frame = clip.world_from_camera[views.frames[k]]
        point = frame[:3, 3] + 2.0 * frame[:3, 2]
        torch.testing.assert_close((point - pose[:3, 3]).norm(), torch.tensor(2.0), rtol=1e-5, atol=0)
        torch.testing.assert_close(pose[:3, 3] + 2.0 * pose[:3, 2], point, rtol=0, atol=1e-5)
    # A half angle of atan(16 / 35) is 13.7 pixels of 30: rounded edges at 10.3 to 37.7 and 2.3 to 29.7.
    drawn = torch.zeros(32, 48)
    drawn[2:30, 10:38] = 0.25 * CONFIDENCE  # the distance was guessed
    assert torch.equal(views.confidence, drawn.expand(2 * MOVES, 32, 48))


def test_pictures_are_what_the_formulas_give(tiny: PriorOptions, clip: Clip) -> None:
    views = observe(tiny, clip)
    window = clip.rgb[1:, :, 2:30, 10:38]
    picture = torch.nn.functional.interpolate(window, (16, 16), mode="bilinear", antialias=True)
    for k, (polar, azimuth) in enumerate(MOVES_DEG, start=MOVES):
        move = torch.tensor([math.radians(polar), math.sin(math.radians(azimuth)), math.cos(math.radians(azimuth)), 0.0])
        noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(k))[None]
        with torch.no_grad():
            drawn = library_draws(tiny, picture, move, noise)
        expected = torch.nn.functional.interpolate(drawn, (28, 28), mode="bilinear", antialias=True)[0]
        assert expected.std() > 0.01
        torch.testing.assert_close(views.rgb[k, :, 2:30, 10:38], expected, rtol=0, atol=2e-4)


def test_moves_are_told_as_the_model_was_told_them() -> None:
    """Against angles of cameras around Blender's origin, whose z is up too; distances in units of the trained ones."""

    def at(polar: float, azimuth: float, radius: float) -> torch.Tensor:
        p, a = math.radians(polar), math.radians(azimuth)
        return radius * torch.tensor([[math.sin(p) * math.cos(a), math.sin(p) * math.sin(a), math.cos(p)]])

    point = torch.tensor([[1.0, -2.0, 0.5]])
    move = relative_move(point + at(70, 170, 3.7), point + at(80, 200, 7.4), point)
    expected = [math.radians(10), math.sin(math.radians(30)), math.cos(math.radians(30)), 1.85]
    torch.testing.assert_close(move, torch.tensor([expected]), rtol=0, atol=1e-5)


def test_clip_is_shown_what_its_processor_normalises() -> None:
    processor = transformers.CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    picture = torch.randint(0, 256, (1, 3, 28, 28)) / 255.0
    images = [(picture[0] * 255).round().byte().permute(1, 2, 0).numpy()]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(clip_pixels(picture, 28), expected, rtol=1e-4, atol=1e-4)


def test_batches_and_seeds(tiny: PriorOptions, clip: Clip) -> None:
    views, again, alone = observe(tiny, clip), observe(tiny, clip), observe(replace(tiny, batch_size=1), clip)
    assert torch.equal(views.rgb, again.rgb)
    torch.testing.assert_close(views.rgb, alone.rgb, rtol=0, atol=1e-4)
    other = observe(replace(tiny, seed=1), clip)
    assert (views.rgb - other.rgb).abs().mean() > 1e-3
    variants = [replace(tiny, seed=seed, batch_size=size) for seed in (0, 1) for size in (1, 4)]
    prints = {Zero123(Path(tiny.weights), variant).fingerprint() for variant in variants}
    assert len(prints) == 2  # seeds draw otherwise, batches do not


def test_weights_may_be_pickled_tensors_and_nothing_else(tiny: PriorOptions, clip: Clip, tmp_path: Path) -> None:
    """Public checkpoints hold .bin files: read with weights_only, which refuses code."""
    folder = shutil.copytree(tiny.weights, tmp_path / "zero123-105000")
    for path in folder.rglob("*.safetensors"):
        name = "pytorch_model.bin" if path.name == "model.safetensors" else "diffusion_pytorch_model.bin"
        torch.save(load_file(path), path.with_name(name))
        path.unlink()
    options = replace(tiny, weights=str(folder))
    assert CARD.missing(options) == ""
    assert torch.equal(observe(options, clip).rgb, observe(tiny, clip).rgb)
    torch.save({"projection.weight": print}, folder / "cc_projection/diffusion_pytorch_model.bin")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        observe(options, clip)


def test_what_is_missing_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not CARD.non_commercial and CARD.licence == "MIT"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="prior zero123: the weights kxic/zero123-xl are not on this machine: .* `hf downl"):
        open_prior("zero123", PriorOptions())
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="lacks scheduler/scheduler_config.json, unet/config.json, .*image_encoder/model.safe"):
        open_prior("zero123", PriorOptions(weights=str(tmp_path)))
    other = save_tiny(tmp_path / "stable-diffusion", in_channels=4)
    with pytest.raises(UserError, match="expected a unet of 8 in_channels .*, got 4: this is no Zero-1-to-3 checkpoint"):
        open_prior("zero123", other)
