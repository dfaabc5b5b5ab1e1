"""Beliefs of depth: the kernel and torch agree, and both say what a plain computation says."""

import math

import numpy as np
import torch

from embodied_liftwm.world_model.depth_belief import LARGEST_LOG_TRUST, MODE_REACH, DepthBelief, Matches, believe

PLANES, HEIGHT, WIDTH = 12, 5, 3
LOG_PLANES = torch.linspace(math.log(0.2), math.log(8.0), PLANES)


def believed(dtype: torch.dtype) -> tuple[DepthBelief, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    shape = (2, PLANES, HEIGHT, WIDTH)
    told = {
        "logits": 2.0 * torch.randn(shape, generator=generator),
        "trust": torch.randn(2, 1, HEIGHT, WIDTH, generator=generator),
        "local": torch.randn(shape, generator=generator),
        "smooth": torch.randn(shape, generator=generator),
        "log_sharpness": torch.tensor([0.1, 0.6]),
    }
    told = {name: t.to(dtype) for name, t in told.items()}
    matches = Matches(told["local"], told["smooth"])
    return believe(told["logits"], told["trust"], matches, told["log_sharpness"], LOG_PLANES.to(dtype)), told


def test_the_kernel_and_torch_agree():
    with torch.no_grad():
        fast, slow = believed(torch.float32)[0], believed(torch.float64)[0]
    for name, a, b in zip(DepthBelief._fields, fast, slow, strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-5, rtol=2e-5, msg=name)


def test_a_cell_believes_what_its_witnesses_say():
    found, told = believed(torch.float64)
    frame, row, column = 1, 2, 1
    logits, local, smooth = (told[name][frame, :, row, column].numpy() for name in ("logits", "local", "smooth"))
    trust = math.exp(np.clip(float(told["trust"][frame, 0, row, column]), -LARGEST_LOG_TRUST, LARGEST_LOG_TRUST))
    sharpness = np.exp(told["log_sharpness"].numpy())
    weight = np.exp(logits - trust * (sharpness[0] * local + sharpness[1] * smooth))
    weight /= weight.sum()
    mode = int(np.argmax(np.convolve(weight, np.ones(3), mode="same")))
    around = slice(max(mode - MODE_REACH, 0), mode + MODE_REACH + 1)
    planes = LOG_PLANES.double().numpy()
    mean = np.average(planes[around], weights=weight[around])
    cell = (frame, row, column)
    np.testing.assert_allclose(found.log_belief[frame, :, row, column].exp().numpy(), weight, rtol=1e-9)
    assert math.isclose(float(found.log_depth[cell]), mean, rel_tol=1e-9)
    assert math.isclose(float(found.spread[cell]), math.sqrt(weight @ (planes - mean) ** 2), rel_tol=1e-9)
