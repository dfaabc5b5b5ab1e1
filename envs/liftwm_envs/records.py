"""What an info holds of arrays whose shapes differ from scene to scene."""

from __future__ import annotations

from collections import UserDict

import numpy as np
from numpy.typing import NDArray


class Record(UserDict[str, NDArray]):
    """Arrays by name. Not a `dict`, whose arrays Gymnasium's vector environments would put into one of a single shape.

    They hand records on as they are: `info["truth"][k]` is the record of environment k, or None where it gave none.
    """

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        """The same names, shapes, dtypes and numbers."""
        if not isinstance(other, Record) or self.keys() != other.keys():
            return False
        return all(mine.dtype == other[name].dtype and np.array_equal(mine, other[name]) for name, mine in self.items())
