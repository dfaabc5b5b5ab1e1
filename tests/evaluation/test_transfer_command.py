"""`liftwm reproduce transfer`: depth in worlds scaled and in worlds that are not ours, beside what learns nothing."""

import numpy as np
import pytest
import torch

from embodied_liftwm.cli import main
from embodied_liftwm.evaluation.rows import read_rows
from embodied_liftwm.experiments import transfer

ASKED = ["episodes=1", "steps=14", "bootstrap=10"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    asked = [*ASKED, "worlds=Revisit-S,nowhere:Hall", "scales=1,4", f"out={folder}", f"results={folder}"]
    assert main(["reproduce", "transfer", *asked]) == 0
    return {(r.scale, r.row): r for r in read_rows(folder / "transfer.csv", transfer.TransferRow)}


def test_a_unit_of_the_episodes_own_holds_scale(rows):
    beside = {transfer.UNTRAINED, transfer.MATCHING, transfer.CONSTANT, transfer.MVS}
    assert {row for _, row in rows} == {transfer.MODEL, transfer.EPISODE, *beside}
    own = rows[4.0, transfer.EPISODE]
    assert own.settled < 1.2 * rows[1.0, transfer.EPISODE].settled
    assert rows[4.0, transfer.MODEL].settled > 3 * own.settled
    assert own.first == pytest.approx(rows[4.0, transfer.MODEL].first, rel=0.05)  # nothing tells before there is parallax


def test_figures_are_of_the_depths_that_are_said():
    true = torch.full((14, 4, 4), 2.0)
    true[:, 0] = 0.0  # not known: says nothing
    said = transfer.Depths(true * 1.1 + 0.01, torch.full_like(true, 0.1), true * 0.9)
    row = transfer._row("w", 1.0, "r", 0, said, true)
    np.testing.assert_allclose([row.first, row.settled, row.map], [0.105, 0.105, 0.1], atol=1e-5)
    assert (row.inside_50, row.inside_90) == (0.0, 1.0)  # log 1.105 is 1.0 standard deviations off
    assert np.isnan(transfer._row("w", 1.0, "r", 0, transfer.Depths(said.lifted), true).map)


def test_worlds_none_of_which_can_be_built_are_refused(tmp_path, capsys):
    assert main(["reproduce", "transfer", *ASKED, "worlds=nowhere:Hall", f"out={tmp_path}", f"results={tmp_path}"]) == 2
    said = capsys.readouterr()
    assert "nowhere:Hall: left out: " in said.out and "none of them can be built here" in said.err
