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


class SetMode(Action):
    """Set one hyperparameter to one of its modes.

    Attributes:
        hyperparameter: Its name, a field of `Hyperparameters`.
        mode: The value.
    """

    hyperparameter: str
    mode: str

    def allowed(self, run: Run, row: int) -> bool:
        """When another mode is on."""
        return getattr(run.states[row].hyperparameters, self.hyperparameter) != self.mode

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, **{self.hyperparameter: self.mode})
