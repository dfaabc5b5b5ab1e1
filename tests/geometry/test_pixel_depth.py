"""Depth at every pixel: edges go where the image has them, and no depth is made up."""

import torch
import torch.nn.functional as F

from embodied_liftwm.geometry.pixel_depth import pixel_depth


def test_an_edge_between_two_pixels_of_a_cell_is_found():
    """A near red square, whose borders cross cells, before a far blue wall."""
    rgb = torch.zeros(1, 3, 16, 16)
    truth = torch.full((1, 16, 16), 4.0)
    rgb[:, 2] = 1.0
    rgb[:, :, 5:11, 3:9] = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]
    truth[:, 5:11, 3:9] = 1.0
    cells = -F.max_pool2d(-truth, 2)  # a cell that straddles the border says the nearer of the two
    nearest = cells.repeat_interleave(2, 1).repeat_interleave(2, 2)
    wrong = (nearest != truth).sum()
    found = pixel_depth(cells, rgb)
    assert wrong > 20
    assert (found != truth).sum() <= 4  # at corners, where no cell around is of one colour alone


def test_every_depth_is_that_of_a_cell_around():
    generator = torch.Generator().manual_seed(0)
    depth, rgb = torch.rand(2, 5, 6, generator=generator), torch.rand(2, 3, 20, 24, generator=generator)
    found = pixel_depth(depth, rgb)
    for b, y, x in ((0, 0, 0), (1, 7, 11), (0, 19, 23), (1, 12, 3)):
        cy, cx = y // 4, x // 4
        around = depth[b, max(0, cy - 1) : cy + 2, max(0, cx - 1) : cx + 2]
        assert (around == found[b, y, x]).any()


def test_an_even_image_keeps_its_cells():
    depth = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1))
    found = pixel_depth(depth, torch.full((1, 3, 8, 8), 0.3))
    torch.testing.assert_close(found, depth.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_compiled_and_torch_choose_alike():
    generator = torch.Generator().manual_seed(2)
    depth, rgb = torch.rand(3, 9, 7, generator=generator), torch.rand(3, 3, 18, 14, generator=generator)
    rgb[1, :, :8] = 0.5  # where colours do not tell, the nearer cell wins
    learned = depth.clone().requires_grad_()
    found = pixel_depth(learned, rgb)
    assert found.requires_grad, "a gradient is left to torch"
    assert torch.equal(pixel_depth(depth, rgb), found.detach())
