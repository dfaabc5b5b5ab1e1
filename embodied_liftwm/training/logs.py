"""Logs of a run: metrics.csv for people and reports, TensorBoard for watching."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from embodied_liftwm.files import disk_errors, write_text


class MetricsLog:
    """A CSV with one row per logged step. Opened again after a kill, it forgets rows past the step resumed from."""

    def __init__(self, path: Path, columns: list[str], resume_step: int) -> None:
        self.columns = columns
        rows = [row for row in self._read(path) if int(row["step"]) <= resume_step]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
        self._path = path
        self._file = path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, columns)

    def _read(self, path: Path) -> list[dict[str, str]]:
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if all(row.get(name) for name in self.columns)]

    def write(self, row: Mapping[str, float | str]) -> None:
        with disk_errors(self._path):
            self._writer.writerow({name: _written(row[name]) for name in self.columns})
            self._file.flush()

    def close(self) -> None:
        with disk_errors(self._path):
            self._file.close()


def _written(value: float | str) -> float | str:
    return value if isinstance(value, int | str) else f"{value:.6g}"


class TensorBoardLog:
    """Scalars for TensorBoard. The import takes seconds, so it happens here and not with the module."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with disk_errors(folder):
            self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1, flush_secs=30)

    def write(self, row: dict[str, float], of: str = "train") -> None:
        step = int(row["step"])
        with disk_errors(self._folder):
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(f"{of}/{name}", value, step)

    def close(self) -> None:
        with disk_errors(self._folder):
            self._writer.close()
