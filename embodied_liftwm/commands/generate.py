"""`liftwm generate`: from one first frame and a camera path, a video with the memory in the loop.

OUT/video.mp4      the given frame, then what the model made of the path
OUT/picture.png    start, farthest, return and their difference; the truth below it where it is known
OUT/metrics.json   closure, holes, figures against truth, the command
OUT/rows.csv       one row a step
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import embodied_liftwm
from embodied_liftwm.commands.schema import command_line
from embodied_liftwm.config import GenerateConfig
from embodied_liftwm.evaluation.generation.starts import check_start, path_of, tours_of
from embodied_liftwm.evaluation.left_out import LeftOut
from embodied_liftwm.files import write_bytes, write_text
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.terminal import plain_console

DRIFTS = ("psnr_seen", "psnr", "abs_rel_seen")
"""Figures whose drift is in metrics.json, by step and by metre."""


def run(config: GenerateConfig) -> int:
    """Generate, write everything under `config.out`, print the figures."""
    generate(config, plain_console())
    return 0


def generate(config: GenerateConfig, console: Console) -> dict[str, Any]:
    """Generate the videos of `config`.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: no such model, picture, dataset or path, no room for the path, a model that returns nonsense, or a
            folder that another process holds or another command owns.
    """
    from embodied_liftwm.evaluation.checked import CheckedModel
    from embodied_liftwm.evaluation.generation.closed_loop import closed_loop_rows
    from embodied_liftwm.evaluation.generation.closed_loop import generate as generate_tour
    from embodied_liftwm.evaluation.progress import progress

    path = path_of(config)  # bad words cost no loading
    check_start(config)
    model = CheckedModel(embodied_liftwm.load(config.model, config.device), "model", config.model)
    tours, blocked = tours_of(config, console, model, path)
    with open_run(config.out, config):
        rows, first = [], None
        with progress("generating", sum(len(tour.path) for tour in tours)) as advance:
            for tour in tours:
                generated = generate_tour(model, tour, config.loop, config.device, advance)
                rows += closed_loop_rows(model.name, tour, generated)
                first = first or (tour, generated)
        assert first is not None
        metrics = _metrics(config, rows, *first) | {"videos": len(tours), "paths_blocked": blocked}
        _write(config, rows, *first, metrics)
    _report(config, console, metrics)
    return metrics


def _metrics(config: GenerateConfig, rows: list[Any], tour: Any, generated: Any) -> dict[str, Any]:
    from embodied_liftwm.evaluation.generation.closed_loop import drift, revisit_share, summarize_closed_loop

    figures = summarize_closed_loop(rows, config.bootstrap)
    own = [row for row in rows if row.episode == tour.episode]
    home = [row for row in own if row.step == tour.path.back() and row.revisits == 0]
    return {
        "command": command_line("generate", config),
        "path": tour.path.name,
        "steps": len(tour.path),
        "closure_psnr": _number(home[0].closure_psnr) if home else None,
        "elsewhere_psnr": _number(home[0].elsewhere_psnr) if home else None,
        "hole_rate": [row.hole_rate for row in own],
        "revisit_share": revisit_share(rows),
        "left_out": [asdict(entry) for entry in _left_out(config, tour.truth)],
        "figures": {name: estimate.as_dict() for name, estimate in figures.items()},
        "drift": {
            by: {name: {label: value.as_dict() for label, value in drift(rows, by, name, resamples=config.bootstrap)}
                 for name in DRIFTS}
            for by in ("step", "metres")
        },
    }  # fmt: skip


def _left_out(config: GenerateConfig, truth: Any) -> list[LeftOut]:
    """What only truth along the path could say."""
    start = config.first_frame or f"data={config.data}"
    if truth is None:
        return [LeftOut("figures against truth", f"need frames along {config.path}, which {start} lacks")]
    if truth.depth is None:
        pixels = "depth errors, and PSNR of pixels of the first frame"
        return [LeftOut(pixels, f"need true depth and true poses, which {start} lacks")]
    return []


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _write(config: GenerateConfig, rows: list[Any], tour: Any, generated: Any, metrics: dict[str, Any]) -> None:
    from embodied_liftwm.data.video import write_mp4
    from embodied_liftwm.evaluation.generation.closed_loop import ClosedLoopRow
    from embodied_liftwm.evaluation.generation.pictures import frames_uint8, side_by_side
    from embodied_liftwm.evaluation.report.pictures import png
    from embodied_liftwm.evaluation.rows import write_rows

    out = Path(config.out)
    write_mp4(out / "video.mp4", frames_uint8(generated.rgb), config.fps)
    write_bytes(out / "picture.png", png(side_by_side(tour, generated)))
    write_rows(out / "rows.csv", rows, ClosedLoopRow)
    write_text(out / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")


SHOWN = {
    "return_psnr": ("closure: return against first frame", "dB"),
    "return_elsewhere_psnr": ("the same against other places of the path", "dB"),
    "closure_psnr": ("every step that comes back, against the step before", "dB"),
    "hole_rate": ("holes: pixels the model says it never saw", ""),
    "psnr": ("against truth, all pixels", "dB"),
    "psnr_seen": ("pixels of the first frame", "dB"),
    "psnr_visited": ("pixels shown before, seen or invented", "dB"),
    "psnr_hidden": ("pixels of the first frame that went out of view", "dB"),
    "abs_rel_seen": ("relative depth error on pixels of the first frame", ""),
}


def _report(config: GenerateConfig, console: Console, metrics: dict[str, Any]) -> None:
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{metrics['path']}: {metrics['videos']} videos of {metrics['steps']} steps",
        title_justify="left",
    )
    for column in ("figure", "mean", "95 %"):
        table.add_column(column)
    for name, (words, unit) in SHOWN.items():
        value = metrics["figures"][name]
        if value["mean"] is not None:
            interval = "" if value["low"] is None else f"{value['low']:.2f} to {value['high']:.2f}"
            table.add_row(words, f"{value['mean']:.2f} {unit}".strip(), interval)
    console.print(table)
    for entry in metrics["left_out"]:
        console.print(f"left out: {entry['name']}: {entry['reason']}", soft_wrap=True, markup=False, highlight=False)
    if metrics["paths_blocked"]:
        console.print(f"{metrics['paths_blocked']} episodes left out: the path would run into a wall or an object")
    console.print(f"wrote {config.out}/video.mp4, picture.png, metrics.json, rows.csv", soft_wrap=True)
