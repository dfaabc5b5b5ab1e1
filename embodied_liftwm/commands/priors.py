"""`liftwm priors list|run|train`: which teachers there are, a pass of one over a dataset, and the training of our own."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from embodied_liftwm.commands.train import run_teacher
from embodied_liftwm.config import PriorsConfig, TeacherConfig
from embodied_liftwm.data import TrainingReader
from embodied_liftwm.data.storage import read_info
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.progress import progress
from embodied_liftwm.plugins import is_function_name
from embodied_liftwm.priors.cache import PriorCache, clip_of, create_cache
from embodied_liftwm.priors.contract import Prior, PriorCard, PriorOptions
from embodied_liftwm.priors.registry import MODULES, find_card, open_prior
from embodied_liftwm.terminal import plain_console


def run(action: str, config: Any) -> int:
    """List the priors, let one observe a dataset, or train one of our own; `config` is that of the action.

    Raises:
        UserError: no such action or prior, a licence that is not accepted, what a prior lacks on this machine, no dataset,
            a full disk.
    """
    if action not in ACTIONS:
        near = difflib.get_close_matches(action, ACTIONS, 1)
        raise UserError(f"priors {action}: {f'did you mean {near[0]}?' if near else 'expected list, run or train'}")
    return ACTIONS[action](config)


def _list(config: PriorsConfig) -> int:
    if not config.name and (config.weights or config.code):
        raise UserError("priors list: weights= and code= are those of one prior: set name= too")
    cards = [find_card(name) for name in ([config.name] if config.name else MODULES)]
    lacking = {card.name: card.missing(_options(config)) for card in cards}
    console = plain_console()
    console.print(table(cards, lacking))
    for name, lacks in lacking.items():
        if lacks:  # a line of its own: it holds commands to copy
            console.print(f"{name}: {lacks}", soft_wrap=True, markup=False)
    return 0


def table(cards: Iterable[PriorCard], lacking: Mapping[str, str]) -> Table:
    """A row for each prior: what it gives, its licence, and whether it is ready, which it is if it lacks nothing."""
    found = Table("prior", "gives", "licence", "ready", box=SIMPLE_HEAD)
    for card in cards:
        licence = f"{card.licence}, no commercial use" if card.non_commercial else card.licence
        found.add_row(
            card.name, ", ".join(card.gives), licence, Text("no", "yellow") if lacking[card.name] else Text("yes", "green")
        )
    return found


def _run(config: PriorsConfig) -> int:
    if not config.name:
        raise UserError("priors run: which prior? Set name=; `liftwm priors list` shows them")
    read_info(Path(config.data))  # before a model is loaded
    options = _options(config)
    prior = open_prior(config.name, options)
    reader = TrainingReader(config.data)
    licence = "its author's" if is_function_name(config.name) else find_card(config.name).licence
    cache = create_cache(reader, config.name, prior.fingerprint(), options, licence)
    console = plain_console(soft_wrap=True)
    console.print(f"prior {config.name}, licence: {licence}", markup=False)
    with cache.writing():
        console.print(_pass(prior, cache, reader, config), markup=False)
    return 0


def _pass(prior: Prior, cache: PriorCache, reader: TrainingReader, config: PriorsConfig) -> str:
    """Let a prior observe the episodes that the cache lacks; what was done, in a line."""
    wanted = range(min(config.episodes or len(reader), len(reader)))
    missing = [episode for episode in wanted if episode not in cache]
    if not missing:
        return f"{cache.folder} holds all {len(wanted)} episodes already: nothing to do"
    changed = sum(cache.path(episode).exists() for episode in missing)
    begin = time.monotonic()
    with progress(config.name, len(missing)) as advance:
        observe(prior, cache, reader, missing, advance)
    frames = int(reader.episode_lengths[missing].sum()) + len(missing)
    kept = f", {len(wanted) - len(missing)} were there" if len(missing) < len(wanted) else ""
    again = f", {changed} of them again since they had changed or were damaged" if changed else ""
    return f"observed {len(missing)} episodes{again}{kept}: {frames} frames in {time.monotonic() - begin:.1f} s: {cache.folder}"


def observe(
    prior: Prior, cache: PriorCache, reader: TrainingReader, episodes: Iterable[int], advance: Callable[[int], None]
) -> None:
    """Show episodes to a prior, one clip each, and keep what it says; `advance` is called with 1 after each."""
    for episode in episodes:
        cache.write(episode, prior.observe(clip_of(reader, episode)))
        advance(1)


def _options(config: PriorsConfig) -> PriorOptions:
    return PriorOptions(**{field.name: getattr(config, field.name) for field in fields(PriorOptions)})


def _train(config: TeacherConfig) -> int:
    run_teacher(config)
    return 0


ACTIONS: dict[str, Callable[[Any], int]] = {"list": _list, "run": _run, "train": _train}
