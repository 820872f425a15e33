"""The contract of an action: one improvement of one training run, relative and bounded."""

from __future__ import annotations

from abc import ABC, abstractmethod

from llmo.engine.run import Run


class Action(ABC):
    """One entry of a menu. Its cost is what the meter charges for the steps that follow it."""

    @abstractmethod
    def allowed(self, run: Run, row: int) -> bool:
        """Whether it would do anything to this row now."""

    @abstractmethod
    def apply(self, run: Run, row: int) -> None:
        """Do it to one row; called only where it is allowed."""
