"""The network of MVDream on top of diffusers' own (Shi et al. 2023, arXiv:2308.16512).

It changes two things of Stable Diffusion 2.1. Its self-attention sees the tokens of all views of a set at once, and an
embedding of the camera, two linear layers on its 16 numbers, is added to that of the time step: what diffusers calls a
projected class embedding. The public checkpoint names its tensors as the original code does; diffusers' own converter of
Stable Diffusion renames them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.files import read_json
from embodied_liftwm.geometry.se3 import look_at
from embodied_liftwm.priors import hub

VIEWS = 4
"""Views of a set: how many the public checkpoint was trained with."""
_PREFIX = "model.diffusion_model."


class AcrossViews:
    """Self-attention among the tokens of the views of a set: a processor for diffusers' attention layers."""

    def __init__(self, views: int) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.views, self._within = views, AttnProcessor2_0()

    def __call__(self, attention: Any, hidden_states: Tensor, *others: Any, **named: Any) -> Tensor:
        joined = hidden_states.unflatten(0, (-1, self.views)).flatten(1, 2)  # [S V, L, D] -> [S, V L, D]
        found: Tensor = self._within(attention, joined, *others, **named)
        return found.unflatten(1, (self.views, -1)).flatten(0, 1)


def load_unet(folder: Path, views: int = VIEWS) -> Any:
    """The UNet2DConditionModel of a folder with config.json and weights as the public checkpoint has them, in float32.

    Called with latents [S V, 4, h, w], a time step, text [S V, L, D] and `class_labels`: cameras [S V, 16]; the views of a
    set follow each other.

    Raises:
        UserError: the configuration or the weights are of another model.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor2_0

    settings = read_json(folder / "config.json")
    unet: Any = UNet2DConditionModel(**_as_diffusers(settings, folder))
    weights = {name: tensor.float() for name, tensor in hub.load_weights(folder).items()}
    try:
        unet.load_state_dict(rename(weights, unet.config))
    except (KeyError, RuntimeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: its weights are not those of MVDream's network: {detail}") from error
    processors = {name: AcrossViews(views) if ".attn1." in name else AttnProcessor2_0() for name in unet.attn_processors}
    unet.set_attn_processor(processors)
    return unet.eval()


def _as_diffusers(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The original code's settings in diffusers' words."""
    wanted = ("model_channels", "channel_mult", "num_res_blocks", "attention_resolutions", "context_dim", "camera_dim")
    known = settings if isinstance(settings, dict) else {}
    lacks = [name for name in wanted if known.get(name) is None]
    if lacks or settings.get("ip_dim"):
        why = f"lacks {', '.join(lacks)}" if lacks else "has image prompts (ImageDream)"
        raise UserError(f"{folder / 'config.json'} {why}: expected MVDream's network, class MultiViewUNetModel")
    channels = [settings["model_channels"] * factor for factor in settings["channel_mult"]]
    attends = [2**level in settings["attention_resolutions"] for level in range(len(channels))]
    per_head = settings.get("num_head_channels", -1)
    heads = [settings["num_heads"] if per_head == -1 else width // per_head for width in channels]
    return {
        "sample_size": settings["image_size"],
        "in_channels": settings["in_channels"],
        "out_channels": settings["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": settings["num_res_blocks"],
        "down_block_types": ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)],
        "attention_head_dim": heads,  # diffusers' name for how many there are
        "transformer_layers_per_block": settings.get("transformer_depth", 1),
        "cross_attention_dim": settings["context_dim"],
        "use_linear_projection": True,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": settings["camera_dim"],
    }


def rename(weights: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The checkpoint's tensors under diffusers' names; the camera's embedding becomes that of a class."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    named = {_PREFIX + name.replace("camera_embed.", "label_emb.0."): tensor for name, tensor in weights.items()}
    renamed: dict[str, Tensor] = convert_ldm_unet_checkpoint(named, dict(config))
    return renamed


def camera_embedding(elevation: Tensor, azimuth: Tensor) -> Tensor:
    """The 16 numbers of cameras at distance 1 that look at the origin, as MVDream was told them.

    A pose row by row: world z up, Blender's camera axes (x right, y up, z backwards). At azimuth 0 the camera is at -y; the
    azimuth grows counter-clockwise as seen from above.

    Args:
        elevation, azimuth: radians. [V]
    """
    level = elevation.cos()
    eye = torch.stack([level * azimuth.sin(), -level * azimuth.cos(), elevation.sin()], dim=-1)
    pose = look_at(eye, torch.zeros_like(eye))
    pose[:, :3, 1:3] *= -1.0  # OpenCV's y and z
    return pose.flatten(1)
