"""Three checkpoint registers: save, load, swap (LHOPT, Tang et al. 2021). No budget comes back."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.registry import actions


class UseRegister(Action):
    """Do something with a register.

    Attributes:
        register: Its name.
    """

    register: str

    def allowed(self, run: Run, row: int) -> bool:
        """Once something is in it."""
        return self.register in run.states[row].registers


class Save(UseRegister):
    """Keep weights, optimizer and settings."""

    def allowed(self, run: Run, row: int) -> bool:
        """While the register does not hold just this; where registers predict along, while the budget pays for it."""
        return run.can_save(row, self.register)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.save(row, self.register)


class GoBack(UseRegister):
    """Go back to what was kept."""

    def allowed(self, run: Run, row: int) -> bool:
        """Once something else is in it, while the budget pays for validating a model of that size."""
        if not super().allowed(run, row) or run.holds(row, self.register):
            return False
        return run.pays_as(row, run.saved_structure(row, self.register))


class Load(GoBack):
    """Go back to what was kept."""

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.load_saved(row, self.register)


class Swap(GoBack):
    """Keep weights, optimizer and settings, and go back to what was kept."""

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.swap_saved(row, self.register)


@actions.register("save_1")
class SaveFirst(Save):
    """Keep weights, optimizer and settings in register 1."""

    register = "1"


@actions.register("save_2")
class SaveSecond(Save):
    """Keep weights, optimizer and settings in register 2."""

    register = "2"


@actions.register("save_3")
class SaveThird(Save):
    """Keep weights, optimizer and settings in register 3."""

    register = "3"


@actions.register("load_1")
class LoadFirst(Load):
    """Back to weights, optimizer and settings of register 1."""

    register = "1"


@actions.register("load_2")
class LoadSecond(Load):
    """Back to weights, optimizer and settings of register 2."""

    register = "2"


@actions.register("load_3")
class LoadThird(Load):
    """Back to weights, optimizer and settings of register 3."""

    register = "3"


@actions.register("swap_1")
class SwapFirst(Swap):
    """Exchange weights, optimizer and settings with register 1."""

    register = "1"


@actions.register("swap_2")
class SwapSecond(Swap):
    """Exchange weights, optimizer and settings with register 2."""

    register = "2"


@actions.register("swap_3")
class SwapThird(Swap):
    """Exchange weights, optimizer and settings with register 3."""

    register = "3"
