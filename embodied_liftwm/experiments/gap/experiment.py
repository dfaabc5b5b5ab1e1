"""`liftwm reproduce gap`: the 3D-awareness gap, in closed form and on episodes (`engine.py` says what is written where).

OUT/gap/support-0.3/data/train, eval      episodes whose cameras stay within 0.3 m, and held-out ones that then leave
OUT/gap/support-0.3/glo-seed0/snapshots   a model at earlier times of its training
RESULTS/gap_toy.csv, gap.csv, gap.svg     the closed form; figures with intervals; the curve
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from embodied_liftwm.config import ReproduceGapConfig, TrainConfig
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.experiments.engine import HONEST, Experiment, without_geometry
from embodied_liftwm.experiments.gap import views as gap
from embodied_liftwm.experiments.gap.report import curve_sections, toy_section
from embodied_liftwm.experiments.gap.toy import support_rows, term_rows
from embodied_liftwm.experiments.page import about_tables, print_table, show
from embodied_liftwm.files import write_text
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.terminal import heading, plain_console
from embodied_liftwm.training.checkpoint import load_model, save_checkpoint
from embodied_liftwm.training.trainer import Trainer

SNAPSHOTS = (0.3, 0.5, 0.7, 0.85)
"""Shares of a training after which a model is kept to be judged, beside its end."""


class Support(Experiment[ReproduceGapConfig]):
    """The two models of one camera support: alike but for the terms, and for where depth can come from."""

    name, about = "gap", gap.GLO
    may_change = {"parts", "supports_m"}

    def __init__(self, config: ReproduceGapConfig, support_m: float) -> None:
        super().__init__(config)
        self.support_m, self.folder = support_m, self.folder / f"support-{support_m:g}"

    def trained_rows(self, seed: int) -> list[str]:
        return [gap.TWO_D, gap.GLO]

    def changes(self, row: str, seed: int) -> TrainConfig:
        return without_geometry(self.config.train) if row == gap.TWO_D else self.config.train

    def parts(self, key: str) -> dict[str, type]:
        return {"views": gap.GapRow}

    def shares(self, row: str, seed: int) -> list[float]:
        """When a model is kept: nothing is rendered while depth is learned alone."""
        return [share for share in SNAPSHOTS if share > self.settings(row, seed).geometry_first]

    def snapshot(self, row: str, seed: int, share: float) -> Path:
        return Path(self.settings(row, seed).run) / "snapshots" / f"{share:g}"

    def begin(self, row: str, trainer: Trainer) -> Callable[[], None]:
        seed = trainer.config.seed

        def keep() -> None:
            for share in self.shares(row, seed):
                place = self.snapshot(row, seed, share)
                if share <= trainer.progress < 1.0 and not place.exists():
                    save_checkpoint(place, trainer.step, trainer.model, {}, {"seconds": trainer.seconds})

        return keep

    def judge(self, model: Any, key: str, seed: int, episodes: Sequence[Episode]) -> dict[str, list[Any]]:
        """Every snapshot there is, and the end, on the held-out episodes."""
        c, models = self.config, {1.0: model}
        for share in self.shares(key, seed) if key not in HONEST else ():
            place = self.snapshot(key, seed, share)
            models |= {share: load_model(str(place), c.train.device)} if place.exists() else {}
        rows = []
        for share in sorted(models):
            checked = CheckedModel(models[share], key, f"{key} at {share:g}")
            views = gap.judge(checked, episodes, c.context, c.displaced_m, c.views_per_episode, c.train.device)
            rows += [gap.gap_row(view, self.support_m, seed, share, c.context) for view in views]
        return {"views": rows}


def run(config: ReproduceGapConfig) -> int:
    """The toy's tables, then the curve."""
    console = plain_console()
    if "toy" in config.parts:
        toy(config, console)
    if "curve" in config.parts:
        curve(config, console)
    return 0


def toy(config: ReproduceGapConfig, console: Console) -> None:
    """Print and write what each loss knows of depth."""
    supports, terms = support_rows(config.supports_m), term_rows()
    for title, rows in (
        ("What a loss knows of log-depth: rank, and Fisher information in the worst direction", supports),
        ("A camera that only turns: what each term adds to the 2D loss", terms),
    ):
        print_table(console, title, toy_section(rows))
    write_rows(Path(config.results) / "gap_toy.csv", [*supports, *terms])


def curve(config: ReproduceGapConfig, console: Console) -> None:
    """Collect, train, judge and compare, support by support.

    Raises:
        UserError: the folder holds the experiment with other settings, or a stage failed.
    """
    supports = [Support(config, support) for support in config.supports_m]
    common = {"out", "results", "seeds", "processes", "bootstrap"} | Support.may_change
    with open_run(Path(config.out) / "gap", config, common, continued=True) as folder:
        for number, it in enumerate(supports, 1):
            where = "only turn" if it.support_m == 0 else f"stay within {it.support_m:g} m"
            heading(console, f"{number}/{len(supports)}", f" cameras that {where}")
            leave = f"support-{it.support_m:g}-leave-{config.displaced_m:g}-after-{config.context}"
            it.collect(f"support-{it.support_m:g}", leave)
            it.train_and_judge_all(console)
        rows = [row for it in supports for key in it.table_rows() for seed in it.seeds for row in it.read(key, seed, "views")]
        figures = gap.figures(rows, config.bootstrap)
        write_rows(Path(config.results) / "gap.csv", figures)
        sections = curve_sections(figures)
        write_text(Path(config.results) / "gap.svg", sections[0].chart)
        show(console, config, folder / "index.html", "The 3D-awareness gap", about_tables(config), [], sections)
