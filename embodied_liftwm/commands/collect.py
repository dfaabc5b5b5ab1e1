"""`liftwm collect`: episodes into a dataset folder, with a progress bar; an interrupted collection is continued."""

from __future__ import annotations

from embodied_liftwm.config import CollectConfig
from liftwm_agents.collection.shown import collect_shown


def run(config: CollectConfig) -> None:
    """Collect, or continue to, `config.episodes` episodes, and say what is there now.

    Raises:
        KeyboardInterrupt: says what is kept.
    """
    collect_shown(config)
