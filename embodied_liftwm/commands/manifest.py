"""`liftwm manifest make|check`: freeze the episodes of the permanence benchmark, of any environment, or drive them again."""

from __future__ import annotations

from pathlib import Path

from embodied_liftwm.config import ManifestConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.terminal import plain_console

ACTIONS = ("make", "check")


def run(action: str, config: ManifestConfig) -> int:
    """Make, or check, one manifest after another.

    Raises:
        UserError: no such action or environment, one whose scenes test no memory, or a manifest that is not as frozen.
    """
    from embodied_liftwm.evaluation.permanence.making import check_manifest, make_manifest
    from embodied_liftwm.evaluation.permanence.manifest import Tour, file_name, known_tasks, load_manifest, write_manifest

    if action not in ACTIONS:
        raise UserError(f"manifest {action}: expected make or check")
    folder = Path(config.out)
    tasks = config.env or (known_tasks(folder) if action == "check" else ())
    if not tasks:
        lacks = "name what to freeze, env=Revisit-S" if action == "make" else f"no manifest in {folder}"
        raise UserError(f"manifest {action}: {lacks}")
    for task in tasks:
        if action == "make":
            tour = Tour(config.tour, config.tour_steps, config.max_steps)
            made = make_manifest(task, config.env_options, config.episodes, config.first_seed, tour)
            write_manifest(made, folder)
        else:
            made = load_manifest(task, folder)
            check_manifest(made)
        removed = ", ".join(f"{count} {reason}" for reason, count in made.reasons.items()) or "none"
        line = f"{folder / file_name(task)}: {len(made.episodes)} episodes; removed: {removed}"
        plain_console().print(line if made.ours else f"{line}; knows: {', '.join(made.knows) or 'nothing'}", soft_wrap=True)
    return 0
