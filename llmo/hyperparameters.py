"""What an action may turn, each with its bounds, and the published default learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from llmo.errors import LlmoError

Augmentation = Literal[
    "off", "token_noise", "span_masking", "synonyms", "insertion", "deletion", "swap", "keyboard", "ocr"
]
Mixing = Literal["uniform", "source_1", "source_2", "source_3", "tracking"]
Selection = Literal["off", "clean", "hard", "curriculum"]
Distillation = Literal["off", "teacher", "averaged", "best", "ensemble", "larger"]
Perturbation = Literal["off", "noise", "fgm", "pgd", "swaps"]
Optimizer = Literal["adamw", "sgd", "lion", "schedule_free"]
Prediction = Literal["alone", "average", "vote"]
Start = Literal["scratch", "pretrained"]
Adapter = Literal["full", "lora", "dora", "ia3", "adalora", "prompt", "prefix"]
VIRTUAL: tuple[Adapter, ...] = ("prompt", "prefix")
"""Adapters that change no weights: virtual tokens before the sequence, or their keys and values."""
VIRTUAL_TOKENS = 8
"""How many there are."""

RATE_RANGE = (1e-3, 1e3)
"""Lowest and highest learning rate, as multiples of the default rate."""
WEIGHT_DECAY_LEVELS = (0.0, 0.01, 0.03, 0.1, 0.3)
"""Decoupled weight decay at each level of regularisation, per unit of learning rate."""
DROPOUT_LEVELS = (0.0, 0.0, 0.05, 0.1, 0.2)
"""Dropout probability of block outputs at each level of regularisation."""
LEVELS: dict[str, tuple[float, ...]] = {
    "momentum": (0.5, 0.8, 0.9, 0.95, 0.98),
    "memory": (0.9, 0.95, 0.99, 0.999),
    "clipping": (0.1, 0.3, 1.0, 3.0, 10.0),
    "accumulation": (1, 2, 4),
    "smoothing": (0.0, 0.05, 0.1, 0.2),
    "strength": (0.5, 1.0, 2.0),
    "temperature": (1.0, 2.0, 4.0),
    "replay": (0.0, 0.15, 0.3, 0.5),
    "generated": (0.0, 0.15, 0.3),
    "sparsity": (0.0, 0.3, 0.5, 0.7, 0.9),
    "noise": (0.5, 0.7, 1.0, 1.4, 2.0, 2.8),
    "auxiliary": (0.0, 0.1, 0.5, 1.0),
}
"""Values of the hyperparameters that are turned one level at a time."""
TEMPLATES = 4
"""Ways to read a text: as it is, and in three hard templates."""
MOST_SHOTS = 2
"""Most labelled examples that stand before a text."""
ADAPTER_FACTORS: dict[Adapter, float] = {
    "full": 1.0,
    "lora": 2.0,
    "dora": 2.0,
    "ia3": 5.0,
    "adalora": 5.0,
    "prompt": 5.0,
    "prefix": 5.0,
}
"""Default rate with each kind of adapter over that of all weights."""
OPTIMIZER_FACTORS: dict[Optimizer, float] = {"adamw": 1.0, "sgd": 0.1, "lion": 0.2, "schedule_free": 1.0}
"""Default rate of each optimizer over AdamW's; of SGD with momentum, times the root of the number of parameters.

Every number moves by AdamW's rate at first, so an update has the rate times that root as its norm; SGD's has a norm of
its rate times that of the gradient, which clipping keeps at 1, times 10 with a momentum of 0.9. Lion's is a fifth (Chen
et al. 2023 advise a third to a tenth).
"""


@dataclass(frozen=True)
class Hyperparameters:
    """The settings of one training run; actions return a changed copy (`dataclasses.replace`).

    Those from `extra_decay` on are turned by the whole menu only (`llmo/actions/menu.py`); those that `LEVELS` has are
    indices into it.

    Attributes:
        learning_rate: The optimizer's rate before any decay, per optimizer step; positive.
        regularisation: Level, an index into `WEIGHT_DECAY_LEVELS` and `DROPOUT_LEVELS`.
        augmentation: How training sequences are changed.
        mixing: How the three sources are mixed.
        distillation: Where the soft targets come from.
        decay_from: Share of the budget at which a decay to zero began, 0 to 1; None for no decay.
        cosine: Whether that decay is half a cosine, else it is linear.
        extra_decay: Levels of weight decay above that of regularisation.
        extra_dropout: Levels of dropout above that of regularisation.
        optimizer: What turns gradients into updates.
        momentum: Decay of the first moment, beta 1.
        memory: Decay of the second moment, beta 2.
        clipping: Norm that gradients are clipped to.
        accumulation: Batches whose gradients are averaged for one update.
        smoothing: Share of the targets that is spread evenly over all classes.
        strength: Factor on how much of a sequence the augmentation changes.
        selection: Which half of the candidates is trained on.
        replay: Share of the sequences that come from materials of earlier phases.
        temperature: Of the soft targets and of the predictions that they are compared with.
        perturbation: What is done to the embedded inputs, or by way of them.
        frozen: How many of the lowest layers are not trained: the embeddings are the first, then the blocks.
        anchored: Whether weights are held near those of the moment that was chosen for it.
        generated: Share of the sequences that the model itself has written.
        pseudo_labels: Whether confident predictions of the best weights stand for the labels that were given.
        without_duplicates: Whether near-duplicates are left out.
        without_broken: Whether text that was decoded wrongly is left out.
        sparsity: Share of the matrices' weights that is zero.
        quantised: Whether the linear layers lie on a grid of eight bits.
        noise: Standard deviation of the noise of private training, over the norm that gradients are clipped to.
        prediction: Whether the weights are validated alone, or together with those in the registers, and how.
        auxiliary: Weight of the loss of predicting what is read, beside that of the task.
        template: Which hard template texts that are classified are read in, see `llmo/tasks/prompts.py`; 0 for none.
        shots: How many labelled training examples stand before each text that is classified.
        verbalised: Whether the classification head was set to say the names of its classes.
    """

    learning_rate: float
    regularisation: int = 1
    augmentation: Augmentation = "off"
    mixing: Mixing = "uniform"
    distillation: Distillation = "off"
    decay_from: float | None = None
    cosine: bool = False
    extra_decay: int = 0
    extra_dropout: int = 0
    optimizer: Optimizer = "adamw"
    momentum: int = 2
    memory: int = 1
    clipping: int = 2
    accumulation: int = 0
    smoothing: int = 0
    strength: int = 1
    selection: Selection = "off"
    replay: int = 0
    temperature: int = 0
    perturbation: Perturbation = "off"
    frozen: int = 0
    anchored: bool = False
    generated: int = 0
    pseudo_labels: bool = False
    without_duplicates: bool = False
    without_broken: bool = False
    sparsity: int = 0
    quantised: bool = False
    noise: int = 2
    prediction: Prediction = "alone"
    auxiliary: int = 0
    template: int = 0
    shots: int = 0
    verbalised: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < float("inf"):
            raise LlmoError("learning rate", self.learning_rate, "a positive finite number")
        if self.regularisation not in range(len(WEIGHT_DECAY_LEVELS)):
            raise LlmoError("regularisation", self.regularisation, f"a level in 0..{len(WEIGHT_DECAY_LEVELS) - 1}")
        for name, kind in MODES.items():
            if getattr(self, name) not in get_args(kind):
                raise LlmoError(name, getattr(self, name), get_args(kind))
        for name, values in LEVELS.items():
            if getattr(self, name) not in range(len(values)):
                raise LlmoError(name, getattr(self, name), f"a level in 0..{len(values) - 1}")
        if self.template not in range(TEMPLATES):
            raise LlmoError("template", self.template, f"a level in 0..{TEMPLATES - 1}")
        if self.shots not in range(MOST_SHOTS + 1):
            raise LlmoError("shots", self.shots, f"a number in 0..{MOST_SHOTS}")
        if self.frozen < 0:
            raise LlmoError("frozen", self.frozen, "a number of layers, at least 0")
        if self.decay_from is not None and not 0 <= self.decay_from <= 1:
            raise LlmoError("decay_from", self.decay_from, "a share in [0, 1]")

    def level(self, name: str) -> float:
        """The value of a hyperparameter of `LEVELS`."""
        return LEVELS[name][getattr(self, name)]

    @property
    def weight_decay(self) -> float:
        """Decoupled weight decay of AdamW."""
        return WEIGHT_DECAY_LEVELS[_within(self.regularisation + self.extra_decay)]

    @property
    def dropout(self) -> float:
        """Dropout probability of block outputs, in [0, 1)."""
        return DROPOUT_LEVELS[_within(self.regularisation + self.extra_dropout)]

    def rate_at(self, spent: float) -> float:
        """The learning rate when a share `spent` of the budget is gone."""
        if self.decay_from is None or spent <= self.decay_from:
            return self.learning_rate
        left = (1 - spent) / (1 - self.decay_from)
        return self.learning_rate * (0.5 - 0.5 * math.cos(math.pi * left) if self.cosine else left)


MODES = {
    "augmentation": Augmentation,
    "mixing": Mixing,
    "selection": Selection,
    "distillation": Distillation,
    "perturbation": Perturbation,
    "optimizer": Optimizer,
    "prediction": Prediction,
}
"""The hyperparameters that are one of some names, with the names."""


def _within(level: int) -> int:
    return max(0, min(len(WEIGHT_DECAY_LEVELS) - 1, level))


def default_learning_rate(
    parameters: int, start: Start, adapter: Adapter, optimizer: Optimizer = "adamw", trained: int = 0
) -> float:
    """The rate llmo starts from when nobody has chosen one.

    A power law of size. From scratch its level is where `llmo tune` finds the best constant rate on train instances
    (15k to 41k parameters); for pre-trained starts the best constant rate is a quarter to a half of it, which is in the
    tuned values of the rules. The exponent meets common practice at 100M parameters (4e-4 from scratch).

    Args:
        parameters: Parameters of the model, the adapter not counted; positive.
        start: From scratch, or from pre-trained weights.
        adapter: Whether all weights are trained, or an adapter, and of which kind.
        optimizer: What it is the rate of; of SGD with momentum for gradients that are clipped to a norm of 1.
        trained: How many parameters are trained; 0 for all.
    """
    level = 6e-3 if start == "scratch" else 4e-3
    rate = level * (parameters / 3e4) ** -0.35 * ADAPTER_FACTORS[adapter] * OPTIMIZER_FACTORS[optimizer]
    return rate * math.sqrt(trained or parameters) if optimizer == "sgd" else rate
