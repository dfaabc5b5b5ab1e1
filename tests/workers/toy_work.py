"""Work whose every task is a list of numbers, reported one by one as their squares."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embodied_liftwm.errors import UserError


@dataclass(frozen=True)
class Squares:
    folder: Path  # what was computed leaves a line in `folder/log`
    die_once_at: int | None = None
    die_at: int | None = None
    fail_at: int | None = None
    refuse_at: int | None = None
    name: str = "squaring"

    def start(self, report: Callable[[tuple[int, int]], None]) -> Callable[[list[int]], None]:
        thread = threading.get_ident()

        def perform(numbers: list[int]) -> None:
            assert threading.get_ident() == thread
            for number in numbers:
                self._compute(number)
                report((number, number**2))

        return perform

    def _compute(self, number: int) -> None:
        if number == self.refuse_at:
            raise UserError(f"{number} has no square")
        if number == self.fail_at:
            raise ZeroDivisionError("a bug")
        died = self.folder / "died"
        if number == self.die_at or (number == self.die_once_at and not died.exists()):
            died.touch()
            os.kill(os.getpid(), 9)
        with (self.folder / "log").open("a") as log:
            log.write(f"{number}\n")

    def left(self, numbers: list[int], message: tuple[int, int]) -> list[int]:
        return [number for number in numbers if number != message[0]]

    def place(self, numbers: list[int]) -> str:
        return f"number {numbers[0]}"
