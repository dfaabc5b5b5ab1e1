"""Colours averaged over boxes: against an average written out, and at the ends of what was splatted."""

import numpy as np
import torch

from embodied_liftwm.world_model.decoders.surface import (
    BOX_LOGITS,
    BOXES_PX,
    GREY,
    GREY_WEIGHT,
    MEDIAN_PX,
    blended_colours,
    median_of_lines,
)


def only(box: int) -> torch.Tensor:
    """Logits [1, L, 8, 8] that choose one box."""
    logits = torch.full((1, len(BOXES_PX), 8, 8), -40.0)
    logits[:, BOXES_PX.index(box)] = 40.0
    return logits


def test_the_smallest_box_shows_the_colour_that_was_splatted():
    rgb, alpha = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((1, 1, 8, 8), 0.8)
    expected = (alpha * rgb + GREY_WEIGHT * GREY) / (alpha + GREY_WEIGHT)
    torch.testing.assert_close(blended_colours(alpha * rgb, alpha, only(1)), expected)


def test_the_largest_box_is_the_mean_of_what_was_splatted():
    generator = torch.Generator().manual_seed(1)
    rgb, alpha = torch.rand(1, 3, 8, 8, generator=generator), (torch.rand(1, 1, 8, 8, generator=generator) > 0.5).float()
    shown = blended_colours(alpha * rgb, alpha, only(8))[0]
    there = alpha[0, 0].bool().numpy()
    mean = (rgb[0].numpy()[:, there].sum(1) + GREY * GREY_WEIGHT * there.size) / (there.sum() + GREY_WEIGHT * there.size)
    np.testing.assert_allclose(shown.numpy(), np.broadcast_to(mean[:, None, None], (3, 8, 8)), rtol=1e-5)


def test_nothing_is_grey_and_untrained_weights_are_those_of_the_boxes():
    nothing = torch.zeros(1, 4, 8, 8)
    logits = torch.zeros(1, len(BOXES_PX), 8, 8)
    torch.testing.assert_close(blended_colours(nothing[:, :3], nothing[:, 3:], logits), torch.full((1, 3, 8, 8), GREY))
    left = torch.zeros(1, 4, 8, 8)
    left[..., :4] = torch.tensor([1.0, 0.0, 0.0, 1.0])[:, None, None]  # red on the left, nothing on the right
    shares = torch.tensor(BOX_LOGITS).softmax(0)
    apart = torch.stack([blended_colours(left[:, :3], left[:, 3:], only(box)) for box in BOXES_PX])
    torch.testing.assert_close(
        blended_colours(left[:, :3], left[:, 3:], logits), (shares[:, None, None, None, None] * apart).sum(0)
    )


def test_the_median_drops_what_is_narrow_and_keeps_what_is_wide():
    depth = torch.full((1, 24, 24), 3.0)
    depth[:, :, 12:] = 2.0  # an edge stays where it is
    wide = depth.clone()
    depth[:, 5 : 5 + MEDIAN_PX // 2, 4 : 4 + MEDIAN_PX // 2] = 1.0  # a speck in front goes
    torch.testing.assert_close(median_of_lines(depth), wide)


def test_the_median_is_that_of_numpy():
    depth = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(2))
    expected, reach = depth.numpy(), MEDIAN_PX // 2
    for axis in (2, 1):
        padded = np.pad(expected, [(0, 0) if a != axis else (reach, reach) for a in range(3)], mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_PX, axis=axis)
        expected = np.median(windows, axis=-1)
    np.testing.assert_array_equal(median_of_lines(depth).numpy(), expected)
