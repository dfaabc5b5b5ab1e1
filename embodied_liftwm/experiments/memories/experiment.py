"""`liftwm reproduce memories`: every memory on one scale, from nothing to its figures.

    OUT/memories/data/train, eval               episodes, and held-out ones of other scenes and layouts
    OUT/memories/latent_append-seed0/           run folder of one model
    OUT/memories/latent_append-seed0.views.csv, .persistence.csv, .yaw-90.csv     its rows, judged
    OUT/memories/none-seed0.views.csv, gaussians-64-seed0.views.csv, latent_bounded-131072-seed0.views.csv, ...     so these
    OUT/memories/cost.csv, index.html           bytes and milliseconds; the page
    RESULTS/memories.csv, memories.svg          figures with intervals; quality against bytes

Whatever is there is not done again, so an interrupted run goes on where it was.

*Equal* for all rows but `recurrent`: the depth, which is that of a trained model (`encoder`), given and not learned any
further, with the features that it is made of; the windows of data, number of steps, batch, terms, optimiser and seeds. So is
one decoder of latents, of caches, cloud and raw context, and one of splatted colours and latents, of patches and Gaussians;
neither is taken from the trained model, which had one of its own for patches. *Learned* by each row: what its latents are, its
decoder, and what its memory has to learn (fusion, attention). *Not equal*: memories that keep colours have `latent_dim` latents
beside them, those that keep latents alone have `cache_dim`; raw context finds depth again at each view, from what frames look
like by themselves and from what they have in common. `recurrent` has no place for depth and learns all it knows from nothing,
for as long as others took: its rows say what can be had in that time, not what a recurrent network can do. `none` and `oracle`
are the weights of `patches`: one forgets all but the last frame, the other lifts the true depth of the episodes that it is
judged on (`evaluation/bounds.py`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from embodied_liftwm.config import ReproduceConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.evaluation.generation.memory_figures import (
    COMPARED,
    MemoryCost,
    cost_figures,
    loop_figures,
    measure_memory,
)
from embodied_liftwm.evaluation.results_table import TableFigure, table_figures
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.experiments.memories import models as memory_models
from embodied_liftwm.experiments.memories import report as memories_report
from embodied_liftwm.experiments.memories.models import Memory, made_of, place, train_and_judge, trained_rows
from embodied_liftwm.experiments.runs import claim, collect_both, seeds
from embodied_liftwm.terminal import heading, plain_console
from embodied_liftwm.workers.side_by_side import Task, side_by_side


def run(config: ReproduceConfig) -> int:
    """Collect, train, judge, time, and show the table.

    Raises:
        UserError: the folder holds the experiment with other settings, or a stage failed.
    """
    console, folder, results = plain_console(), place(config), Path(config.results)
    memory_models.check(config)
    with claim(folder, config):
        collect_both(config, folder / "data")
        _train_and_judge_all(config, console)
        figures = _figures(config)
        write_rows(results / "memories.csv", figures)
        page = memories_report.write(config, folder, results, figures)
        memories_report.print_tables(console, config, figures)
        for line in memories_report.headline(figures):
            console.print(f"  {line}")
        console.print(f"report: {page}")
        return 0


def _train_and_judge_all(config: ReproduceConfig, console: Console) -> None:
    """Whatever is not there yet, several models side by side; `recurrent` once it is known how long the others took."""
    rows = trained_rows(config)
    for seed in seeds(config):
        _side_by_side(config, [(row, seed) for row in rows if row != "recurrent"], f"seed {seed}", console)
    if "recurrent" in rows:
        _side_by_side(config, [("recurrent", seed) for seed in seeds(config)], "all seeds", console)


def _side_by_side(config: ReproduceConfig, trainings: list[tuple[str, int]], what: str, console: Console) -> None:
    todo = [(row, seed) for row, seed in trainings if not all(m.is_judged(config) for m in made_of(config, row, seed))]
    if todo:
        heading(console, what, f": train and judge {', '.join(dict(todo))}")
        tasks = [Task(f"{row} {seed}", partial(train_and_judge, config, row, seed)) for row, seed in todo]
        side_by_side(tasks, config.processes, console)


def _figures(config: ReproduceConfig) -> list[TableFigure]:
    """All figures, in the order of the table."""
    by_key: dict[str, list[Memory]] = {}
    for row in trained_rows(config):
        for seed in seeds(config):
            for memory in made_of(config, row, seed):
                by_key.setdefault(memory.key, []).append(memory)
    keys = sorted(by_key, key=memories_report.order)
    table = {key: {m.seed: memory_models.judged(config, m) for m in by_key[key]} for key in keys}
    loops = {key: {m.seed: memory_models.generated(config, m) for m in by_key[key]} for key in keys}
    costs = _costs(config, [by_key[key][0] for key in keys])
    return [*table_figures(table, config.bootstrap, COMPARED), *loop_figures(loops, config.bootstrap), *cost_figures(costs)]


def _costs(config: ReproduceConfig, memories: list[Memory]) -> list[MemoryCost]:
    """What each memory costs over one held-out episode, one after another."""
    path = place(config) / "cost.csv"
    found = read_rows(path, MemoryCost) if path.exists() else []
    if {cost.row for cost in found} != {memory.key for memory in memories}:
        episodes = list(EvaluationReader(place(config) / "data/eval"))
        device = config.train.device
        found = [
            measure_memory(memory_models.load(config, memory, episodes), memory.key, episodes[0], device) for memory in memories
        ]
        write_rows(path, found, MemoryCost)
    return found
