"""How a single feature is read from a history: pure functions that never leave a scale behind.

Losses, norms and rates enter as ratios and logarithms of ratios; what is unknown is 0, or NaN, which `observe`
turns into 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from llmo.diagnostics.history import History
from llmo.hyperparameters import Hyperparameters
from llmo.measurement import Measurement

Reading = Callable[[History], float]


def log_ratio(a: float, b: float) -> float:
    """log(a / b), or 0 where one of them is not positive and finite."""
    return math.log(a / b) if 0 < a < math.inf and 0 < b < math.inf else 0.0


def back(history: History, steps: int) -> Measurement:
    """The measurement some steps before the last, or the first."""
    return history.measurements[max(0, len(history.measurements) - 1 - steps)]


# Progress


def left_root(h: History) -> float:
    """Root of the share of the budget left: it tells the last steps apart."""
    return math.sqrt(max(0.0, 1 - h.last.spent))


def step_share(h: History) -> float:
    """Share of the budget that the last step took."""
    return 10 * (h.last.spent - back(h, 1).spent)


def pretrained(h: History) -> float:
    """Whether it started from pre-trained weights."""
    return float(h.start == "pretrained")


# Losses


def loss_level(h: History) -> float:
    """Validation loss relative to that of a uniform guess, log(vocabulary)."""
    return 2 * log_ratio(h.last.validation_loss, math.log(h.vocabulary))


def gain(steps: int) -> Reading:
    """Validation gain over the last steps; positive when the loss went down."""
    return lambda h: 10 * log_ratio(back(h, steps).validation_loss, h.last.validation_loss)


def gain_total(h: History) -> float:
    """Validation gain since the first measurement."""
    return 3 * log_ratio(h.measurements[0].validation_loss, h.last.validation_loss)


def gain_slope(h: History) -> float:
    """The last step's gain less the mean of the two steps before: positive when progress speeds up."""
    return gain(1)(h) - 0.5 * (gain(3)(h) - gain(1)(h))


def stalled(h: History) -> float:
    """Measurements since the best loss, that one included, over 4."""
    return sum(m.best_validation_loss == h.last.best_validation_loss for m in h.measurements) / 4


def best_gap(h: History) -> float:
    """Validation loss over the best so far."""
    return 20 * log_ratio(h.last.validation_loss, h.last.best_validation_loss)


def train_gap(h: History) -> float:
    """The generalisation gap: training loss over validation loss."""
    return 3 * log_ratio(h.last.train_loss, h.last.validation_loss)


def train_gain(h: History) -> float:
    """Training gain over the last step."""
    return 10 * log_ratio(back(h, 1).train_loss, h.last.train_loss)


def teacher_gap(h: History) -> float:
    """Validation loss over the teacher's."""
    return 5 * log_ratio(h.last.validation_loss, h.last.teacher_loss)


def has_teacher(h: History) -> float:
    """Whether there is a teacher."""
    return float(math.isfinite(h.last.teacher_loss))


# Gradients and updates


def momentum_cosine(h: History) -> float:
    """Cosine of the last gradient and the first moment."""
    return 2 * h.last.momentum_cosine


def norm_trend(h: History) -> float:
    """Gradient norm over its mean so far."""
    norms = [m.gradient_norm for m in h.measurements[1:]]
    return log_ratio(norms[-1], sum(norms) / len(norms)) if norms else 0.0


def gradient_noise(h: History) -> float:
    """Noise over signal in a mini-batch gradient, as a power of ten.

    With independent noise the cosine of two mini-batch gradients is |G|^2 / (|G|^2 + noise), so noise over signal is
    1 / cosine - 1: the simple noise scale of McCandlish et al. (2018) in units of the batch.
    """
    if h.last.optimizer_steps < 2:
        return 0.0
    cosine = min(0.999, max(0.001, h.last.gradient_cosine))
    return math.log10(1 / cosine - 1)


def update_ratio(h: History) -> float:
    """Norm of the last change of the matrices over their own, as a power of ten; 0 for a hundredth in one step.

    Many steps count as a random walk: by the root of their number. Before any, it is what the first will change.
    """
    if not h.last.update_ratio:
        return 0.0
    return math.log10(max(h.last.update_ratio / math.sqrt(max(1, h.last.optimizer_steps)), 1e-6)) + 2


def ratio_rank(h: History) -> float:
    """Rank of the last update ratio within the run, 0 to 1."""
    ratios = [m.update_ratio for m in h.measurements[1:]]
    return sum(r < ratios[-1] for r in ratios) / max(1, len(ratios) - 1) if ratios else 0.0


# Settings


def rate(h: History) -> float:
    """The last optimizer step's rate over the default, as a power of ten; the rate that was set before any step."""
    used = h.last.learning_rate or h.hyperparameters.learning_rate
    return math.log10(max(used, 1e-12) / h.default_rate)


def base_rate(h: History) -> float:
    """The rate before any decay over the default, as a power of ten."""
    return math.log10(h.hyperparameters.learning_rate / h.default_rate)


def decaying(h: History) -> float:
    """Whether the rate decays to zero."""
    return float(h.hyperparameters.decay_from is not None)


def regularisation(h: History) -> float:
    """Levels of regularisation above the default."""
    return float(h.hyperparameters.regularisation - 1)


def setting(attribute: str, value: str | bool | int) -> Reading:
    """Whether a hyperparameter has a value."""
    return lambda h: float(getattr(h.hyperparameters, attribute) == value)


def level(name: str) -> Reading:
    """Levels of a hyperparameter above its default."""
    default = getattr(Hyperparameters(learning_rate=1.0), name)
    return lambda h: (getattr(h.hyperparameters, name) - default) / 2


def adapter(kind: str) -> Reading:
    """Whether an adapter of a kind is trained."""
    return lambda h: float(h.adapter == kind)


def forgotten(h: History) -> float:
    """How much of an earlier phase has been forgotten."""
    return 10 * h.last.forgotten


def register(h: History, index: int) -> float:
    """Loss of what a register holds over the validation loss."""
    return 20 * log_ratio(h.last.registers[index], h.last.validation_loss)


def holds(h: History, index: int) -> float:
    """Whether a register holds something."""
    return float(not math.isnan(h.last.registers[index]))


# One source slot, 0 to 2


def source_gap(h: History, slot: int) -> float:
    """Its training loss over the validation loss."""
    return 3 * log_ratio(h.last.source_loss[slot], h.last.validation_loss)


def source_rank(h: History, slot: int) -> float:
    """Rank of how far its loss is from the validation loss, -1 (nearest) to 1; 0 while it is unknown."""
    distance = [abs(loss - h.last.validation_loss) for loss in h.last.source_loss]
    return 0.0 if not math.isfinite(distance[slot]) else float(sum(other < distance[slot] for other in distance) - 1)


def source_weight(h: History, slot: int) -> float:
    """Its share of the mixture: 0 for a third, 2 for all."""
    return 3 * h.last.mixture[slot] - 1


def source_age(h: History, slot: int) -> float:
    """Steps since it gave half of the batches, over 8; 2 if it never did."""
    for steps, measurement in enumerate(reversed(h.measurements)):
        if measurement.source_share[slot] >= 0.5:
            return steps / 8
    return 2.0


def source_size(h: History, slot: int) -> float:
    """Its tokens, as a power of ten; 0 for 10,000."""
    return math.log10(max(1.0, h.last.source_tokens[slot])) - 4


def source_credit(h: History, slot: int) -> float:
    """Mean validation gain while it was used, later steps counting more, less the mean over all steps."""
    gains = [
        (log_ratio(a.validation_loss, b.validation_loss), b.source_share[slot], 0.7**age)
        for age, (a, b) in enumerate(zip(h.measurements[-2::-1], h.measurements[:0:-1], strict=True))
    ]
    used = sum(share * weight for _, share, weight in gains)
    if used < 0.02:
        return 0.0
    mean = sum(gain * weight for gain, _, weight in gains) / sum(weight for _, _, weight in gains)
    return 20 * (sum(gain * share * weight for gain, share, weight in gains) / used - mean)


def source_change(h: History, slot: int) -> float:
    """Its training loss over that of two steps ago."""
    return 5 * log_ratio(h.last.source_loss[slot], back(h, 2).source_loss[slot])
