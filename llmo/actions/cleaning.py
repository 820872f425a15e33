"""Leave out training data that are not worth it; looking at them costs no FLOPs."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.registry import actions
from llmo.tasks.cleaning import Rule, bad_sequences


class LeaveOut(Action):
    """Leave out the sequences of every material that a rule finds bad.

    Attributes:
        rule: Which.
    """

    rule: Rule

    def allowed(self, run: Run, row: int) -> bool:
        """While they are trained on, and there are any."""
        settings = run.states[row].hyperparameters
        task = run.states[row].problem.task
        return not getattr(settings, f"without_{self.rule}") and any(
            bad.any() for bad in bad_sequences(task, self.rule)
        )

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, **{f"without_{self.rule}": True})


@actions.register("clean_duplicates")
class CleanDuplicates(LeaveOut):
    """Leave out sequences that nearly repeat earlier ones (MinHash, Broder 1997; Lee et al. 2022)."""

    rule = "duplicates"


@actions.register("clean_broken")
class CleanBroken(LeaveOut):
    """Leave out text that was decoded wrongly: replacement characters, UTF-8 read as Latin-1."""

    rule = "broken"
