"""One toy dataset for all tests of a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy_room import write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("toy") / "data")
