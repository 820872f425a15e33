"""The observation: one list of named, scale-free features of a run's history.

The space, the values, the documentation and the plots all read `FEATURES`. What an instance is must not show in them, so they
are ratios, slopes, cosines and shares (as in LHOPT, Tang et al. 2021), clipped to [-5, 5].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from llmo.diagnostics.history import History
from llmo.hyperparameters import Augmentation, Distillation, Mixing
from llmo.measurement import Measurement

LIMIT = 5.0
"""Every feature lies in [-LIMIT, LIMIT]."""
FAMILIES = ("rate", "regularise", "source", "augment", "adapter", "distil", "rollback", "load", "keep")
"""First words of action names; what the observation remembers of the last two actions."""


@dataclass(frozen=True)
class Feature:
    """One entry of the observation.

    Attributes:
        name: Its name.
        group: Which part of a run it comes from; groups a run cannot see are zero.
        read: The value, from the history.
    """

    name: str
    group: str
    read: Callable[[History], float]


def _log_ratio(a: float, b: float) -> float:
    return math.log(a / b) if 0 < a < math.inf and 0 < b < math.inf else 0.0


def _back(history: History, steps: int) -> Measurement:
    return history.measurements[max(0, len(history.measurements) - 1 - steps)]


def _gain(steps: int) -> Callable[[History], float]:
    return lambda h: 10 * _log_ratio(_back(h, steps).validation_loss, h.last.validation_loss)


def _source(read: Callable[[History, int], float], slot: int) -> Callable[[History], float]:
    return lambda h: read(h, slot)


def _source_gap(h: History, slot: int) -> float:
    return 3 * _log_ratio(h.last.source_loss[slot], h.last.validation_loss)


def _source_rank(h: History, slot: int) -> float:
    distance = [abs(loss - h.last.validation_loss) for loss in h.last.source_loss]
    return 0.0 if math.isnan(distance[slot]) else float(sum(other < distance[slot] for other in distance) - 1)


def _source_weight(h: History, slot: int) -> float:
    return 3 * h.last.mixture[slot] - 1


def _source_age(h: History, slot: int) -> float:
    for back, measurement in enumerate(reversed(h.measurements)):
        if measurement.source_share[slot] >= 0.5:
            return back / 8
    return 2.0


def _source_size(h: History, slot: int) -> float:
    return math.log10(max(1.0, h.last.source_tokens[slot])) - 4


def _source_credit(h: History, slot: int) -> float:
    """Mean validation gain while the source was used, later steps counting more, less the mean over all steps."""
    gains = [
        (_log_ratio(a.validation_loss, b.validation_loss), b.source_share[slot], 0.7**age)
        for age, (a, b) in enumerate(zip(h.measurements[-2::-1], h.measurements[:0:-1], strict=True))
    ]
    used = sum(share * weight for _, share, weight in gains)
    if used < 0.02:
        return 0.0
    mean = sum(gain * weight for gain, _, weight in gains) / sum(weight for _, _, weight in gains)
    return 20 * (sum(gain * share * weight for gain, share, weight in gains) / used - mean)


def _source_change(h: History, slot: int) -> float:
    return 5 * _log_ratio(h.last.source_loss[slot], _back(h, 2).source_loss[slot])


def _norm_trend(h: History) -> float:
    norms = [m.gradient_norm for m in h.measurements[1:]]
    return _log_ratio(norms[-1], sum(norms) / len(norms)) if norms else 0.0


def _ratio_rank(h: History) -> float:
    """Rank of the last update ratio within the run, 0 to 1."""
    ratios = [m.update_ratio for m in h.measurements[1:]]
    return sum(r < ratios[-1] for r in ratios) / max(1, len(ratios) - 1) if ratios else 0.0


def _last_action(back: int, family: str) -> Callable[[History], float]:
    return lambda h: float(len(h.actions) >= back and h.actions[-back].startswith(family))


def _is(attribute: str, value: str) -> Callable[[History], float]:
    return lambda h: float(getattr(h.hyperparameters, attribute) == value)


def _rate_multiple(h: History) -> float:
    rate = h.last.learning_rate or h.hyperparameters.learning_rate
    return math.log10(max(rate, 1e-12) / h.default_rate)


def _features() -> tuple[Feature, ...]:
    features = [
        Feature("spent", "progress", lambda h: 2 * h.last.spent - 1),
        Feature("left_root", "progress", lambda h: math.sqrt(max(0.0, 1 - h.last.spent))),
        Feature("step_share", "progress", lambda h: 10 * (h.last.spent - _back(h, 1).spent)),
        Feature("pretrained", "progress", lambda h: float(h.start == "pretrained")),
        Feature("gain_1", "loss", _gain(1)),
        Feature("gain_2", "loss", _gain(2)),
        Feature("gain_4", "loss", _gain(4)),
        Feature("gain_total", "loss", lambda h: 3 * _log_ratio(h.measurements[0].validation_loss, h.last.validation_loss)),
        Feature("gain_slope", "loss", lambda h: _gain(1)(h) - 0.5 * (_gain(3)(h) - _gain(1)(h))),
        Feature("best_gap", "loss", lambda h: 20 * _log_ratio(h.last.validation_loss, h.last.best_validation_loss)),
        Feature("stalled", "loss", lambda h: sum(m.best_validation_loss == h.last.best_validation_loss for m in h.measurements) / 4),
        Feature("train_gap", "loss", lambda h: 3 * _log_ratio(h.last.train_loss, h.last.validation_loss)),
        Feature("train_gain", "loss", lambda h: 10 * _log_ratio(_back(h, 1).train_loss, h.last.train_loss)),
        Feature("norm_trend", "gradient", _norm_trend),
        Feature("clipped", "gradient", lambda h: h.last.clipped),
        Feature("momentum_cosine", "gradient", lambda h: 2 * h.last.momentum_cosine),
        Feature("gradient_cosine", "gradient", lambda h: 2 * h.last.gradient_cosine),
        Feature("update_ratio", "gradient", lambda h: math.log10(max(h.last.update_ratio, 1e-6)) + 2),
        Feature("update_ratio_rank", "gradient", _ratio_rank),
        Feature("rate", "settings", _rate_multiple),
        Feature("base_rate", "settings", lambda h: math.log10(h.hyperparameters.learning_rate / h.default_rate)),
        Feature("decaying", "settings", lambda h: float(h.hyperparameters.decay_from is not None)),
        Feature("regularisation", "settings", lambda h: h.hyperparameters.regularisation - 1),
        Feature("lora", "settings", lambda h: float(h.adapter == "lora")),
        Feature("rank", "settings", lambda h: h.rank / 4),
        Feature("teacher_gap", "teacher", lambda h: 5 * _log_ratio(h.last.validation_loss, h.last.teacher_loss)),
        Feature("has_teacher", "teacher", lambda h: float(math.isfinite(h.last.teacher_loss))),
    ]  # fmt: skip
    readings = {
        "gap": _source_gap, "gap_rank": _source_rank, "weight": _source_weight, "age": _source_age,
        "size": _source_size, "credit": _source_credit, "change": _source_change,
    }  # fmt: skip
    for slot in range(3):
        for name, read in readings.items():
            features.append(Feature(f"source_{slot + 1}_{name}", "sources", _source(read, slot)))
    for attribute, kind in (("mixing", Mixing), ("augmentation", Augmentation), ("distillation", Distillation)):
        for value in get_args(kind):
            features.append(Feature(f"{attribute}_{value}", "settings", _is(attribute, value)))
    for back in (1, 2):
        for family in FAMILIES:
            features.append(Feature(f"action_{back}_{family}", "actions", _last_action(back, family)))
    return tuple(features)


FEATURES = _features()
NAMES = tuple(feature.name for feature in FEATURES)
INDEX = {name: index for index, name in enumerate(NAMES)}
GROUPS = tuple(dict.fromkeys(feature.group for feature in FEATURES))


def observe(history: History) -> NDArray[np.float32]:
    """The observation of a history with at least one measurement: float32, [len(FEATURES)], in [-LIMIT, LIMIT]."""
    values = [0.0 if feature.group in history.neutral else feature.read(history) for feature in FEATURES]
    clean = np.nan_to_num(np.array(values), nan=0.0, posinf=LIMIT, neginf=-LIMIT)
    return np.clip(clean, -LIMIT, LIMIT).astype(np.float32)
