"""What an action may turn, each with its bounds, and the published default learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from llmo.errors import LlmoError

Augmentation = Literal["off", "token_noise", "span_masking"]
Mixing = Literal["uniform", "source_1", "source_2", "source_3", "tracking"]
Distillation = Literal["off", "teacher", "averaged"]
Start = Literal["scratch", "pretrained"]
Adapter = Literal["full", "lora"]

RATE_RANGE = (1e-3, 1e3)
"""Lowest and highest learning rate, as multiples of the default rate."""
WEIGHT_DECAY_LEVELS = (0.0, 0.01, 0.03, 0.1, 0.3)
"""Decoupled weight decay at each level of regularisation, per unit of learning rate."""
DROPOUT_LEVELS = (0.0, 0.0, 0.05, 0.1, 0.2)
"""Dropout probability of block outputs at each level of regularisation."""


@dataclass(frozen=True)
class Hyperparameters:
    """The settings of one training run; actions return a changed copy (`dataclasses.replace`).

    Attributes:
        learning_rate: AdamW's rate before any decay, per optimizer step; positive.
        regularisation: Level, an index into `WEIGHT_DECAY_LEVELS` and `DROPOUT_LEVELS`.
        augmentation: How input tokens are corrupted; labels stay clean.
        mixing: How the three sources are mixed.
        distillation: Where the soft targets come from.
        decay_from: Share of the budget at which a linear decay to zero began, 0 to 1; None for no decay.
    """

    learning_rate: float
    regularisation: int = 1
    augmentation: Augmentation = "off"
    mixing: Mixing = "uniform"
    distillation: Distillation = "off"
    decay_from: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < float("inf"):
            raise LlmoError("learning rate", self.learning_rate, "a positive finite number")
        if self.regularisation not in range(len(WEIGHT_DECAY_LEVELS)):
            raise LlmoError("regularisation", self.regularisation, f"a level in 0..{len(WEIGHT_DECAY_LEVELS) - 1}")
        choices = (("augmentation", Augmentation), ("mixing", Mixing), ("distillation", Distillation))
        for name, kind in choices:
            if getattr(self, name) not in get_args(kind):
                raise LlmoError(name, getattr(self, name), get_args(kind))
        if self.decay_from is not None and not 0 <= self.decay_from <= 1:
            raise LlmoError("decay_from", self.decay_from, "a share in [0, 1]")

    @property
    def weight_decay(self) -> float:
        """Decoupled weight decay of AdamW."""
        return WEIGHT_DECAY_LEVELS[self.regularisation]

    @property
    def dropout(self) -> float:
        """Dropout probability of block outputs, in [0, 1)."""
        return DROPOUT_LEVELS[self.regularisation]

    def rate_at(self, spent: float) -> float:
        """The learning rate when a share `spent` of the budget is gone."""
        if self.decay_from is None or spent <= self.decay_from:
            return self.learning_rate
        return self.learning_rate * (1 - spent) / (1 - self.decay_from)


def default_learning_rate(parameters: int, start: Start, adapter: Adapter) -> float:
    """The rate llmo starts from when nobody has chosen one.

    A power law of size. From scratch its level is where `llmo tune` finds the best constant rate on train instances
    (15k to 41k parameters); for pre-trained starts the best constant rate is a quarter to a half of it, which is in the
    tuned values of the rules. The exponent meets common practice at 100M parameters (4e-4 from scratch).

    Args:
        parameters: Parameters of the model, the adapter not counted; positive.
        start: From scratch, or from pre-trained weights.
        adapter: Whether all weights are trained, or LoRA factors.
    """
    level = 6e-3 if start == "scratch" else 4e-3
    rate = level * (parameters / 3e4) ** -0.35
    return rate * (2.0 if adapter == "lora" else 1.0)
