"""Corrupt the input tokens of training batches; labels stay clean."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.hyperparameters import Augmentation
from llmo.registry import actions


class Augment(Action):
    """Change the augmentation.

    Attributes:
        augmentation: The mode it sets.
    """

    augmentation: Augmentation

    def allowed(self, run: Run, row: int) -> bool:
        """When another mode is on."""
        return run.states[row].hyperparameters.augmentation != self.augmentation

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, augmentation=self.augmentation)


@actions.register("augment_off")
class AugmentOff(Augment):
    """Train on the text as it is."""

    augmentation = "off"


@actions.register("augment_noise")
class AugmentNoise(Augment):
    """Replace one input token in ten by a random one."""

    augmentation = "token_noise"


@actions.register("augment_mask")
class AugmentMask(Augment):
    """Mask one span of 15% of each input sequence."""

    augmentation = "span_masking"
