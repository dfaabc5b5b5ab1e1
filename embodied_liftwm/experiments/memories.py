"""`liftwm reproduce memories`: every memory on one scale (`engine.py` says what is written where).

    OUT/memories/latent_append-seed0.yaw-90.csv  the videos that a row makes, path by path
    OUT/memories/cost.csv                        bytes and milliseconds
    RESULTS/memories.csv, memories.svg           figures with intervals; quality against bytes

*Equal* for all rows but `recurrent`: the depth, which is that of a trained model (`encoder`), given and not learned any
further, with the features that it is made of; the windows of data, number of steps, batch, terms, optimiser and seeds. So is
one decoder of latents, of caches, cloud and raw context, and one of splatted colours and latents, of patches and Gaussians;
neither is taken from the trained model, which had one of its own for patches. *Learned* by each row: what its latents are, its
decoder, and what its memory has to learn (fusion, attention). *Not equal*: memories that keep colours have `latent_dim` latents
beside them, those that keep latents alone have `cache_dim`; raw context finds depth again at each view, from what frames look
like by themselves and from what they have in common. `recurrent` has no place for depth and learns all it knows from nothing,
for as long as others took: its rows say what can be had in that time, not what a recurrent network can do. `none` and `oracle`
are the weights of `patches`: one forgets all but the last frame, the other lifts the true depth of the episodes that it is
judged on (`evaluation/views/bounds.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, get_args

import embodied_liftwm
from embodied_liftwm.config import MemoryRow, ModelConfig, ReproduceMemoriesConfig, TrainConfig, size_word
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.generation.camera_paths import named_path
from embodied_liftwm.evaluation.generation.closed_loop import ClosedLoopRow, closed_loop_rows, generate
from embodied_liftwm.evaluation.generation.memory_figures import (
    COMPARED,
    MemoryCost,
    cost_figures,
    loop_figures,
    measure_memory,
)
from embodied_liftwm.evaluation.generation.tours import Tour, first_clear_tour
from embodied_liftwm.evaluation.report.charts import COLOURS, Panel, line, svg
from embodied_liftwm.evaluation.report.tables import Column
from embodied_liftwm.evaluation.results_table import (
    GEOMETRY_COLUMNS,
    IMAGE_COLUMNS,
    PERSISTENCE_COLUMNS,
    TableFigure,
    pooled,
    table_figures,
)
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.views.bounds import LastFrame, with_true_depth
from embodied_liftwm.experiments.engine import FRAME_WARP, HONEST, MEAN_COLOUR, Experiment, Make, as_it_is, at
from embodied_liftwm.experiments.page import MINUS, Section, about_tables, honest_lines, show, table_of, told
from embodied_liftwm.files import write_text
from embodied_liftwm.memory.latents.bounded import slots_for
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.training.frozen_depth import freeze_depth
from embodied_liftwm.training.trainer import Trainer

LABELS = {
    "none": "none (last frame)",
    "context": "raw context",
    "recurrent": "recurrent",
    "rgb_cloud": "RGB cloud",
    "latent_append": "latent cache, append",
    "latent_bounded": "latent cache",
    "patches": "relief patches",
    "gaussians": "Gaussians",
    "oracle": "oracle (patches, true depth)",
} | HONEST  # fmt: skip
TRAINED = ("rgb_cloud", "context", "gaussians", "latent_bounded", "patches", "latent_append", "recurrent")
"""Rows that have weights of their own, the longest work first."""
BOUNDS = ("none", "oracle")
"""Rows made of the weights of `patches`."""
GAUSSIANS = 2048
"""That `gaussians` is trained with."""
RECURRENT_STEPS = 6
"""Steps that the recurrent baseline takes for one of the others: 0.46 s of a core each, where theirs take 2.9 s at most."""
LOOP_STEPS = 8
"""Steps of a generated video from one waypoint to the next."""
COST_COLUMNS = (
    Column("memory (KiB)", ("memory_kib",), 1),
    Column("whole state (KiB)", ("state_kib",), 1),
    Column("observe (ms)", ("observe_ms",), 1),
    Column("render (ms)", ("render_ms",), 1),
    Column("render at the end (ms)", ("last_render_ms",), 1),
)
LOOP_COLUMNS = {
    "return_psnr": ("return / first (dB)", 2, "higher"),
    "closure_psnr": ("closure (dB)", 2, "higher"),
    "elsewhere_psnr": ("other places (dB)", 2, ""),
    "psnr_seen": ("PSNR, seen px", 2, "higher"),
    "psnr_hidden": ("PSNR, seen then hidden", 2, "higher"),
    "abs_rel_seen": ("AbsRel, seen px", 3, "lower"),
    "hole_rate": ("holes", 2, ""),
}
"""Of the videos along a path."""


class Memories(Experiment[ReproduceMemoriesConfig]):
    """The matrix of memories."""

    name, about = "memories", "patches"
    may_change = {"budgets", "memories", "cache_bytes", "loops"}

    def check(self) -> None:
        """Raises UserError for what would fail only after hours: paths, budgets of bytes, the model that lends its depth."""
        c = self.config
        for path in c.loops:
            named_path(path, LOOP_STEPS)
        if not c.encoder:
            return
        size = shipped(c.encoder).image_size
        cells = math.prod(size) // self.architecture().stride ** 2
        for budget in c.cache_bytes if "latent_bounded" in c.memories else ():
            slots_for(budget, c.cache_dim, cells)
        options = c.collect.env_options
        if options.sides != size:
            wanted = f"encoder={c.encoder} is for {size_word(size)}"
            raise UserError(f"collect.env_options.image_size={options.image_size}: {wanted}")

    def architecture(self) -> ModelConfig:
        """Sizes that all rows have: those of the model that depth is taken from; `train.model` where there is none."""
        own, encoder = self.config.train.model, self.config.encoder
        sizes = {"patches": own.patches, "latent_bounded": own.latent_bounded}
        return replace(shipped(encoder).config, **sizes) if encoder else own

    def trained_rows(self, seed: int) -> list[str]:
        """Rows to train: those asked for, and `patches` for the rows that are made of it."""
        wanted = {*self.config.memories, *(("patches",) if set(BOUNDS) & set(self.config.memories) else ())}
        return [row for row in TRAINED if row in wanted]

    def changes(self, row: str, seed: int) -> TrainConfig:
        """As `train`, but for the memory, and for what a depth that does not learn has no need of."""
        model = replace(self.architecture(), memory=row)  # type: ignore[arg-type]
        if row == "gaussians":
            model = model.sized(GAUSSIANS)
        if row in ("latent_append", "latent_bounded", "rgb_cloud", "context"):
            model = replace(model, latent_dim=self.config.cache_dim)
        found = replace(self.config.train, model=model)
        if self.config.encoder:  # nothing judges a depth that is given
            found = replace(found, geometry_first=0.0, sources=max(1, min(found.sources, model.stereo_sources)))
        return replace(found, steps=RECURRENT_STEPS * found.steps) if row == "recurrent" else found

    def made_of(self, row: str) -> dict[str, Make]:
        c, found = self.config, dict[str, Make]()
        if row in c.memories:
            found[row] = as_it_is
        if row == "patches":
            bounds: dict[str, Make] = {"none": lambda model, _: LastFrame(model), "oracle": with_true_depth}
            found |= {bound: bounds[bound] for bound in BOUNDS if bound in c.memories}
        more = {"gaussians": c.budgets, "latent_bounded": c.cache_bytes}.get(row, ())
        own = GAUSSIANS if row == "gaussians" else self.architecture().latent_bounded.bytes
        return found | {f"{row}-{n}": partial(at, n) for n in more if n != own}

    def begin(self, row: str, trainer: Trainer) -> Callable[[], None]:
        if not self.config.encoder or row == "recurrent":
            return lambda: None
        model: Any = trainer.model
        return freeze_depth(model.encoder, shipped(self.config.encoder).encoder, fresh=trainer.step == 0)

    def loops(self, key: str) -> tuple[str, ...]:
        """Paths of its videos; none of the oracle, for nobody knows the true depth of what was invented, nor of mean colour."""
        return () if key in ("oracle", MEAN_COLOUR) else self.config.loops

    def parts(self, key: str) -> dict[str, type]:
        return super().parts(key) | dict.fromkeys(self.loops(key), ClosedLoopRow)

    def judge(self, model: Any, key: str, seed: int, episodes: Sequence[Episode]) -> dict[str, list[Any]]:
        found = super().judge(model, key, seed, episodes)
        for path in self.loops(key):
            checked, device = CheckedModel(model, key), self.config.train.device
            tours = self.tours(path, episodes)
            found[path] = [row for t in tours for row in closed_loop_rows(key, t, generate(checked, t, device=device))]
        return found

    def tours(self, path: str, episodes: Sequence[Episode]) -> list[Tour]:
        """The first held-out episodes in which the path is clear. Raises UserError where it is clear in none."""
        info, found = EvaluationReader(self.data / "eval").info, list[Tour]()
        for index, episode in enumerate(episodes):
            tour = first_clear_tour(info, episode, index, named_path(path, LOOP_STEPS))
            found += [tour] if tour is not None else []
            if len(found) == self.config.loop_episodes:
                return found
        if not found:
            raise UserError(f"loops: {path} would run into a wall or an object in every held-out episode: take a shorter one")
        return found

    def figures(self) -> list[TableFigure]:
        """All figures, in the order of the table."""
        keys, c = sorted(self.table_rows(), key=order), self.config
        loops = {key: {s: {p: self.read(key, s, p) for p in self.loops(key)} for s in self.seeds} for key in keys}
        table = table_figures(self.judged(keys), c.bootstrap, [*COMPARED, *self.compared(keys)])
        return [*table, *loop_figures(loops, c.bootstrap), *cost_figures(self.costs(keys))]

    def costs(self, keys: Sequence[str]) -> list[MemoryCost]:
        """What each memory costs over one held-out episode, one after another; most honest rows have the costs of `patches`."""
        own, path = [key for key in keys if key not in HONEST or key == FRAME_WARP], self.folder / "cost.csv"
        found = read_rows(path, MemoryCost) if path.exists() else []
        if {cost.row for cost in found} != set(own):
            episodes, seed, device = self.episodes(), self.config.train.seed, self.config.train.device
            found = [measure_memory(self.make(key, seed, episodes), key, episodes[0], device) for key in own]
            write_rows(path, found, MemoryCost)
        return found

    def label(self, key: str) -> str:
        """What a row is called."""
        row, budget = apart(key)
        if row == "latent_bounded":
            return f"{LABELS[row]}, {(budget or self.architecture().latent_bounded.bytes) / 1024:g} KiB"
        if row in ("patches", "gaussians"):
            return f"{LABELS[row]}, N = {budget or (GAUSSIANS if row == 'gaussians' else self.architecture().patches.budget)}"
        return LABELS[row]


@cache
def shipped(name: str) -> Any:
    """The model that depth is taken from."""
    return embodied_liftwm.load(name)


def apart(key: str) -> tuple[str, int]:
    """A key's row and budget, 0 for the one that it was trained with."""
    row, _, budget = key.partition("-")
    return row, int(budget or 0)


def order(key: str) -> tuple[int, int]:
    """Where a row stands in the table."""
    row, budget = apart(key)
    return [*get_args(MemoryRow), *HONEST].index(row), budget or 10**12


def run(config: ReproduceMemoriesConfig) -> int:
    """Collect, train, judge, time, and show the table.

    Raises:
        UserError: the folder holds the experiment with other settings, or a stage failed.
    """
    console, it = plain_console(), Memories(config)
    it.check()
    with it.claim():
        it.collect()
        it.train_and_judge_all(console)
        figures = it.figures()
        write_rows(it.results / "memories.csv", figures)
        sections = table_sections(it, figures)
        write_text(it.results / "memories.svg", sections[0].chart)
        about = about_tables(config)
        if config.encoder:
            about += f" All rows but <em>recurrent</em> and the honest ones lift the depth of <code>{config.encoder}</code>."
        show(console, config, it.folder / "index.html", "Every memory on one scale", about, headline(it, figures), sections)
        return 0


def table_sections(it: Memories, figures: Sequence[TableFigure]) -> list[Section]:
    """Quality against bytes, then the tables."""
    images = (*IMAGE_COLUMNS, Column("made up: below held (dB)", ("empty_loss_db",), 2, "lower"))
    parts: dict[str, tuple[Column, ...]] = {
        "novel views": images,
        "depth of novel views": GEOMETRY_COLUMNS,
        "persistence, by steps since last seen": PERSISTENCE_COLUMNS,
    }
    for path in it.config.loops:
        parts[f"videos along {path}"] = tuple(
            Column(title, (f"{path} {name}",), digits, better) for name, (title, digits, better) in LOOP_COLUMNS.items()
        )
    parts["cost, at the end of an episode"] = COST_COLUMNS
    keys = [key for key in pooled(figures) if MINUS not in key]
    words = (
        "Of a memory with a budget all of it counts, of one that grows what is filled, after one episode. <em>None</em> "
        "keeps one frame. The few frames that stereo keeps beside any memory that lifts are not counted."
    )
    found = [Section("quality against bytes", words, chart=svg(panels(it, figures), salt="memories"))]
    return found + [
        Section(f"{title}, seeds pooled", "", table_of(figures, columns, it.label, keys, "oracle"))
        for title, columns in parts.items()
    ]


def panels(it: Memories, figures: Sequence[TableFigure]) -> list[Panel]:
    """Quality against bytes, with intervals; a row's budgets are joined."""
    rows = {key: own for key, own in pooled(figures).items() if MINUS not in key and "memory_bytes" in own}
    found = []
    for figure, words in (("psnr_seen", "PSNR, seen pixels (dB)"), ("persistence", "persistence")):
        lines = []
        for i, row in enumerate(dict.fromkeys(apart(key)[0] for key in rows)):
            own = [found for key, found in rows.items() if apart(key)[0] == row and figure in found]
            at = [found["memory_bytes"]["mean"] for found in own]
            lines.append(line(LABELS[row], at, [found[figure] for found in own], COLOURS[i % len(COLOURS)]))
        found.append(Panel("bytes of memory at the end of an episode", words, lines, log=True))
    return found


def headline(it: Memories, figures: Sequence[TableFigure]) -> list[str]:
    """What the table says, in a line for each claim that it can decide."""
    found, rows = honest_lines(figures, it.about, tuple(HONEST), it.label), pooled(figures)
    for kept in ("latent_append", "latent_bounded"):
        if gain := rows.get(f"{kept} - rgb_cloud", {}).get("psnr_seen"):
            sizes = [rows[key]["memory_bytes"]["mean"] for key in ("rgb_cloud", kept)]
            smaller = f"{sizes[0] / sizes[1]:.1f} times smaller"
            found.append(f"{LABELS[kept]} over the RGB cloud, seen pixels: {told(gain, 2)} dB, {smaller}")
    for figure, name, digits in (("psnr_seen", "PSNR on seen pixels", 2), ("persistence", "persistence", 3)):
        there = {key: own[figure] for key, own in rows.items() if MINUS not in key and key != "oracle" and figure in own}
        if there:
            best = max(there, key=lambda key: there[key]["mean"])
            found.append(f"best {name}: {it.label(best)}, {told(there[best], digits, sign=False)}")
    return found
