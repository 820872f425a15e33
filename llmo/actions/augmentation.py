"""Change the sequences that are trained on: corrupt what is read, or edit the text."""

from __future__ import annotations

from llmo.actions.action import SetMode
from llmo.actions.levels import TurnLevel
from llmo.engine.run import Run
from llmo.hyperparameters import Augmentation
from llmo.registry import actions


class Augment(SetMode):
    """Change the augmentation."""

    hyperparameter = "augmentation"
    mode: Augmentation


@actions.register("augment_off")
class AugmentOff(Augment):
    """Train on the text as it is."""

    mode = "off"


@actions.register("augment_noise")
class AugmentNoise(Augment):
    """Replace one input token in ten by a random one."""

    mode = "token_noise"


@actions.register("augment_mask")
class AugmentMask(Augment):
    """Mask one span of 15% of each input sequence."""

    mode = "span_masking"


class Edit(Augment):
    """Change the augmentation to one that needs to know something of the tokens."""

    def allowed(self, run: Run, row: int) -> bool:
        """When another mode is on, and that is known."""
        return super().allowed(run, row) and run.words(row).can(self.mode)


@actions.register("augment_synonyms")
class AugmentSynonyms(Edit):
    """Replace one input token in ten by one of its nearest neighbours in the embedding, or words by a user's table."""

    mode = "synonyms"


@actions.register("augment_insert")
class AugmentInsert(Edit):
    """Insert neighbours of tokens behind one token in ten (EDA, Wei and Zou 2019)."""

    mode = "insertion"


@actions.register("augment_delete")
class AugmentDelete(Edit):
    """Delete one token in ten (EDA, Wei and Zou 2019)."""

    mode = "deletion"


@actions.register("augment_swap")
class AugmentSwap(Edit):
    """Let one token in ten change places with another (EDA, Wei and Zou 2019)."""

    mode = "swap"


@actions.register("augment_keyboard")
class AugmentKeyboard(Edit):
    """Hit a neighbouring key for one character in thirty."""

    mode = "keyboard"


@actions.register("augment_ocr")
class AugmentOcr(Edit):
    """Take one character in thirty for one that looks like it."""

    mode = "ocr"


class Strength(TurnLevel):
    """Turn how much of a sequence the augmentation changes."""

    hyperparameter = "strength"

    def allowed(self, run: Run, row: int) -> bool:
        """While there is such a level, and an augmentation is on."""
        return run.states[row].hyperparameters.augmentation != "off" and super().allowed(run, row)


@actions.register("augment_stronger")
class AugmentStronger(Strength):
    """Change twice as much of each sequence."""

    by = 1


@actions.register("augment_weaker")
class AugmentWeaker(Strength):
    """Change half as much of each sequence."""

    by = -1
