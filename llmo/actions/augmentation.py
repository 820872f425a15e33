"""Corrupt the input tokens of training batches; labels stay clean."""

from __future__ import annotations

from llmo.actions.action import SetMode
from llmo.registry import actions


class Augment(SetMode):
    """Change the augmentation."""

    hyperparameter = "augmentation"


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
