"""World models with a persistent 3D state for agents that carry a camera.

    load(name_or_path)    a trained `WorldModel`, from a run folder, a checkpoint or the name of a shipped one

The contracts are in `embodied_liftwm.protocols`. Importing this package does not import torch; the parts that need it do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embodied_liftwm.protocols import WorldModel

__version__ = "0.1.0"


def load(name_or_path: str, device: str = "cpu") -> WorldModel:
    """Load a trained world model, ready to observe.

    Args:
        name_or_path: a run folder, a checkpoint folder, `my_package:make_model`, or the name of a shipped checkpoint; a folder
            of that name comes first.
        device: torch device the weights go to.

    Raises:
        UserError: nothing of that name (what is shipped is listed), a foreign file, or weights of another architecture.
    """
    from embodied_liftwm.training.checkpoint import load_model

    return load_model(name_or_path, device)
