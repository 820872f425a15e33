"""Progress of a long command: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts something up to a total and shows how far it is, and what is left.

    Args:
        what: What is being done, in a few words.
        total: How many units there are.
        done: How many were finished before, by an earlier run that is resumed.
    """

    def __init__(self, what: str, total: float, done: float = 0.0) -> None:
        self.what, self.total, self.done = what, total, done
        self._first = done
        self._started = self._printed = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns)
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=round(self.total), completed=round(self.done), note="")
        else:
            print(f"{self.what}: {self.done:.0f} of {self.total:.0f}", flush=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, units: float = 1.0, note: str = "") -> None:
        """Count some units.

        Args:
            units: How many were done since the last call.
            note: What else to show, such as the newest score.
        """
        self.done = min(self.total, self.done + units)
        if self._bar is not None:
            self._bar.update(self._task, completed=round(self.done))
            if note:
                self._bar.update(self._task, note=note)
            return
        now = time.monotonic()
        if now - self._printed >= SECONDS_BETWEEN_LINES or self.done >= self.total:
            self._printed = now
            rate = (self.done - self._first) / max(1e-9, now - self._started)
            left = f", {(self.total - self.done) / rate:.0f} s left" if rate > 0 and self.done < self.total else ""
            print(f"{self.what}: {self.done:.0f} of {self.total:.0f}{left}{', ' + note if note else ''}", flush=True)
