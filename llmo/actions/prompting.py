"""What stands around texts that are classified, in training, validation and test alike, and what names the classes."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.hyperparameters import MOST_SHOTS
from llmo.registry import actions


class SetTemplate(Action):
    """Read texts in another hard template.

    Attributes:
        template: Its level; 0 for none.
    """

    template: int

    def allowed(self, run: Run, row: int) -> bool:
        """Where texts are classified in another one, and sequences have room for this one."""
        settings, task = run.states[row].hyperparameters, run.states[row].problem.task
        return settings.template != self.template and task.can_read(self.template, settings.shots)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, template=self.template)


@actions.register("template_off")
class TemplateOff(SetTemplate):
    """Read texts that are classified as they are."""

    template = 0


@actions.register("template_1")
class TemplateFirst(SetTemplate):
    """Read texts that are classified with "Topic:" behind them (PET, Schick and Schuetze 2021)."""

    template = 1


@actions.register("template_2")
class TemplateSecond(SetTemplate):
    """Read texts that are classified between "Text:" and "Topic:" (PET, Schick and Schuetze 2021)."""

    template = 2


@actions.register("template_3")
class TemplateThird(SetTemplate):
    """Read texts that are classified between "What is this?" and "A:" (PET, Schick and Schuetze 2021)."""

    template = 3


@actions.register("verbaliser_labels")
class VerbaliserLabels(Action):
    """Set the classification head to the embeddings of the classes' names (PET, Schick and Schuetze 2021)."""

    def allowed(self, run: Run, row: int) -> bool:
        """Where texts are classified by a head and embeddings that can be trained, which does not say names yet."""
        return not run.states[row].hyperparameters.verbalised and run.can_verbalise(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.verbalise(row)


@actions.register("verbaliser_off")
class VerbaliserOff(Action):
    """Put the classification head back that was there before it was set to the classes' names."""

    def allowed(self, run: Run, row: int) -> bool:
        """While the head was set to names, and the other one is kept."""
        return run.can_unverbalise(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.unverbalise(row)


@actions.register("shots_0")
class ShotsNone(Action):
    """Show a classifier no examples before each text: zero-shot."""

    def allowed(self, run: Run, row: int) -> bool:
        """While some are shown."""
        return run.states[row].hyperparameters.shots > 0

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, shots=0)


@actions.register("shots_more")
class ShotsMore(Action):
    """Show one more labelled training example before each text, of another class (Brown et al. 2020)."""

    def allowed(self, run: Run, row: int) -> bool:
        """Where texts are classified, up to two, while sequences have room for it."""
        settings, task = run.states[row].hyperparameters, run.states[row].problem.task
        return settings.shots < MOST_SHOTS and task.can_read(settings.template, settings.shots + 1)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, shots=run.states[row].hyperparameters.shots + 1)
