"""Collecting with a progress bar, and a line at the end that says what is there; an interrupted collection is continued."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from embodied_liftwm.config import CollectConfig
from embodied_liftwm.data.storage import scan
from embodied_liftwm.terminal import plain_console, text_column
from liftwm_agents.collection.collect import CollectProgress, collect


def collect_shown(config: CollectConfig) -> None:
    """Collect, or continue to, `config.episodes` episodes, and say what is there now.

    Raises:
        KeyboardInterrupt: says what is kept.
    """
    try:
        _run(config)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(Path(config.out))) from None


def _kept(out: Path) -> str:
    found = len(scan(out)) if out.is_dir() else 0
    if not found:
        return "no episode was finished: the same command starts from the beginning"
    return f"{found} episodes are kept in {out}: the same command continues there"


def _run(config: CollectConfig) -> None:
    console = plain_console()
    meter = _Meter(config.episodes)
    with Progress(
        text_column("collecting"),
        BarColumn(),
        MofNCompleteColumn(),
        text_column("episodes  {task.fields[rate]:5.0f} frames/s"),
        TimeElapsedColumn(),
        text_column("left {task.fields[left]}"),
        console=console,
    ) as bar:
        task = bar.add_task("collect", total=config.episodes, rate=0.0, left="?")
        progress = collect(config, lambda now: bar.update(task, completed=now.episodes, **meter.update(now)))
    console.print(_closing_line(config, progress, meter), soft_wrap=True, highlight=False)


def _closing_line(config: CollectConfig, progress: CollectProgress, meter: _Meter) -> str:
    if not progress.frames:
        return f"{config.out} holds {progress.found} episodes already: nothing to collect"
    new = progress.episodes - meter.found
    kept = f", {meter.found} were there" if meter.found else ""
    speed = f"{progress.frames} frames in {meter.seconds:.1f} s ({meter.rate:.0f} frames/s, {config.workers} workers)"
    return f"collected {new} episodes{kept}: {speed}: {config.out}"


class _Meter:
    """Frames per second since the first frame came, and time left. Starting processes is not counted as recording."""

    def __init__(self, total: int) -> None:
        self._begin = time.monotonic()
        self._first: float | None = None
        self._total = total
        self.found = 0
        self.rate = self.seconds = 0.0

    def update(self, progress: CollectProgress) -> dict[str, Any]:
        now = time.monotonic()
        self.seconds = now - self._begin
        if not progress.frames:
            self.found = progress.episodes
            return {}
        self._first = self._first or now
        if now > self._first:
            self.rate = progress.frames / (now - self._first)
        new = progress.episodes - self.found
        if not new:
            return {"rate": self.rate}
        minutes, seconds = divmod(round((now - self._first) / new * (self._total - progress.episodes)), 60)
        return {"rate": self.rate, "left": f"{minutes}:{seconds:02d}"}
