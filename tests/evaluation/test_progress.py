"""Long work says where it stands, with and without a terminal."""

from __future__ import annotations

import pytest

from embodied_liftwm.evaluation import progress as module
from embodied_liftwm.evaluation.progress import progress


def test_without_a_terminal_a_line_a_minute_says_how_much_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with progress("tours", 12) as done:
        for _ in range(5):
            now += 25.0
            done(1)
    assert capsys.readouterr().err == "tours 3/12, left 3:45\n"


def test_work_of_less_than_a_minute_prints_nothing(capsys: pytest.CaptureFixture[str]):
    with progress("tours", 2) as done:
        done(2)
    assert capsys.readouterr().err == ""
