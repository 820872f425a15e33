"""The observation: one list of named, scale-free features of a run's history.

The space, the values, the documentation and the plots all read `FEATURES`. What an instance is must not show in them,
so they are ratios, slopes, cosines and shares (as in LHOPT, Tang et al. 2021), clipped to [-5, 5].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from llmo.diagnostics import readings as read
from llmo.diagnostics.history import History
from llmo.hyperparameters import (
    LEVELS,
    TEMPLATES,
    Augmentation,
    Distillation,
    Mixing,
    Optimizer,
    Perturbation,
    Prediction,
    Selection,
)

LIMIT = 5.0
"""Every feature lies in [-LIMIT, LIMIT]."""
FAMILIES = (
    "keep", "rate_x0", "rate_x2", "rate_x5", "rate_default", "rate_decay", "regularise_more", "regularise_less",
    "source_1", "source_2", "source_3", "source_uniform", "source_tracking",
    "augment", "adapter", "distil", "rollback", "load", "other",
)  # fmt: skip
"""How action names begin: what the observation remembers of the last two actions; ``other`` is for all other names."""


@dataclass(frozen=True)
class Feature:
    """One entry of the observation.

    Attributes:
        name: Its name.
        group: Which part of a run it comes from; groups that a run cannot see are zero.
        meaning: What it says, in one line.
        read: The value, from the history.
    """

    name: str
    group: str
    meaning: str
    read: Callable[[History], float]


def family(action: str) -> str:
    """The one family of `FAMILIES` that an action belongs to."""
    return next((prefix for prefix in FAMILIES if action.startswith(prefix)), "other")


_RUN = (
    Feature("spent", "progress", "share of the budget spent, -1 to 1", lambda h: 2 * h.last.spent - 1),
    Feature("left_root", "progress", "root of the share of the budget left", read.left_root),
    Feature("step_share", "progress", "share of the budget that the last step took, times 10", read.step_share),
    Feature("pretrained", "progress", "whether it started from pre-trained weights", read.pretrained),
    Feature("loss_level", "loss", "2 log(validation loss / log vocabulary)", read.loss_level),
    Feature("gain_1", "loss", "10 log(validation loss 1 step ago / now)", read.gain(1)),
    Feature("gain_2", "loss", "10 log(validation loss 2 steps ago / now)", read.gain(2)),
    Feature("gain_4", "loss", "10 log(validation loss 4 steps ago / now)", read.gain(4)),
    Feature("gain_total", "loss", "3 log(first validation loss / now)", read.gain_total),
    Feature("gain_slope", "loss", "gain of the last step less the mean of the two before", read.gain_slope),
    Feature("best_gap", "loss", "20 log(validation loss / the best so far)", read.best_gap),
    Feature("stalled", "loss", "measurements since the best loss, that one included, over 4", read.stalled),
    Feature("train_gap", "loss", "3 log(training loss / validation loss): the generalisation gap", read.train_gap),
    Feature("train_gain", "loss", "10 log(training loss 1 step ago / now)", read.train_gain),
    Feature("norm_trend", "gradient", "log(gradient norm / its mean so far)", read.norm_trend),
    Feature("clipped", "gradient", "share of the gradients that were clipped", lambda h: h.last.clipped),
    Feature("momentum_cosine", "gradient", "cosine of gradient and first moment, times 2", read.momentum_cosine),
    Feature("gradient_noise", "gradient", "log10(noise / signal) of a mini-batch gradient", read.gradient_noise),
    Feature("update_ratio", "gradient", "log10(change of the matrices in a step / their norm) + 2", read.update_ratio),
    Feature("update_ratio_rank", "gradient", "rank of that ratio within the run, 0 to 1", read.ratio_rank),
    Feature("rate", "settings", "log10(learning rate / default)", read.rate),
    Feature("base_rate", "settings", "log10(learning rate before decay / default)", read.base_rate),
    Feature("decaying", "settings", "whether the rate decays to zero", read.decaying),
    Feature("regularisation", "settings", "levels of regularisation above the default", read.regularisation),
    Feature("lora", "settings", "whether an adapter is trained", lambda h: float(h.adapter == "lora")),
    Feature("rank", "settings", "rank of the adapter, over 4", lambda h: h.rank / 4),
    Feature("teacher_gap", "teacher", "5 log(validation loss / the teacher's)", read.teacher_gap),
    Feature("has_teacher", "teacher", "whether there is a teacher", read.has_teacher),
)
_SOURCE = (
    ("gap", "3 log(training loss on source {} / validation loss)", read.source_gap),
    ("gap_rank", "rank of source {} by distance from the validation loss, -1 (nearest) to 1", read.source_rank),
    ("weight", "mixture weight of source {}: 0 for a third, 2 for all", read.source_weight),
    ("age", "steps since source {} gave half of the batches, over 8", read.source_age),
    ("size", "log10(tokens of source {} / 10,000)", read.source_size),
    ("credit", "validation gain while source {} was used, less the mean", read.source_credit),
    ("change", "5 log(training loss on source {} / that of 2 steps ago)", read.source_change),
)


_MODES = {
    "mixing": get_args(Mixing),
    "augmentation": ("off", "token_noise", "span_masking"),
    "distillation": ("off", "teacher", "averaged"),
}
"""Of some hyperparameters, the values that are seen."""


def _features() -> tuple[Feature, ...]:
    features = list(_RUN)
    for slot in range(3):
        for name, meaning, of_slot in _SOURCE:
            meaning = meaning.format(slot + 1)
            features.append(Feature(f"source_{slot + 1}_{name}", "sources", meaning, partial(of_slot, slot=slot)))
    for attribute, choices in _MODES.items():
        for choice in choices:
            meaning = f"whether {attribute} is {choice}"
            features.append(Feature(f"{attribute}_{choice}", "settings", meaning, read.setting(attribute, choice)))
    for back, when in ((1, "last"), (2, "last but one")):
        for name in FAMILIES:
            meaning = f"whether the {when} action was of the family {name}"
            features.append(Feature(f"action_{back}_{name}", "actions", meaning, _took(back, name)))
    return tuple(features)


_MORE_MODES = {
    "optimizer": get_args(Optimizer)[1:],
    "selection": get_args(Selection)[1:],
    "perturbation": get_args(Perturbation)[1:],
    "augmentation": tuple(mode for mode in get_args(Augmentation) if mode not in _MODES["augmentation"]),
    "distillation": tuple(mode for mode in get_args(Distillation)[:-1] if mode not in _MODES["distillation"]),
}
MORE_FAMILIES = (
    "decay", "dropout", "momentum", "memory", "clip", "batch", "smooth", "warm", "optimizer", "select", "freeze",
    "perturb", "swa", "soup", "anchor", "replay", "save", "swap", "clean", "write", "written", "pseudo",
    "prune", "quantise", "noise", "block", "units", "heads", "student", "predict", "auxiliary", "template",
    "verbaliser", "shots",
)  # fmt: skip
"""How the names begin of actions that only the whole menu has."""


def _more_features() -> tuple[Feature, ...]:
    features = []
    for attribute, kinds in _MORE_MODES.items():
        for choice in kinds:
            meaning = f"whether {attribute} is {choice}"
            features.append(Feature(f"{attribute}_{choice}", "menu", meaning, read.setting(attribute, choice)))
    for name in (*(name for name in LEVELS if name != "auxiliary"), "extra_decay", "extra_dropout"):
        meaning = f"levels of {name} above the default, over 2"
        features.append(Feature(f"{name}_level", "menu", meaning, read.level(name)))
    for kind in ("dora", "ia3"):
        meaning = f"whether a {kind} adapter is trained"
        features.append(Feature(f"adapter_{kind}", "menu", meaning, read.adapter(kind)))
    features += [
        Feature("frozen", "menu", "lowest layers that are not trained, over 2", lambda h: h.hyperparameters.frozen / 2),
        Feature("forgotten", "menu", "10 log(loss of an earlier phase / its lowest), where it is most", read.forgotten),
        Feature("privacy", "menu", "share of the budget of privacy that is spent", lambda h: h.last.privacy),
        Feature("size", "menu", "log(bytes of the weights / those in float32)", lambda h: math.log(h.last.size)),
    ]
    for flag in ("anchored", "pseudo_labels", "without_duplicates", "without_broken", "quantised"):
        meaning = f"whether {flag} is on"
        features.append(Feature(flag, "menu", meaning, read.setting(flag, True)))
    for register in range(3):
        meaning = f"20 log(loss saved in register {register + 1} / validation loss); 0 for an empty one"
        features.append(Feature(f"register_{register + 1}", "menu", meaning, partial(read.register, index=register)))
        meaning = f"whether register {register + 1} holds something"
        held = partial(read.holds, index=register)
        features.append(Feature(f"register_{register + 1}_held", "menu", meaning, held))
    for name in MORE_FAMILIES:
        meaning = f"whether the last action was of the family {name}"
        features.append(Feature(f"last_{name}", "menu", meaning, partial(_began, name=name)))
    learns = read.setting("distillation", "larger")
    features.append(Feature("distillation_larger", "menu", "whether distillation is from a larger self", learns))
    for choice in get_args(Prediction)[1:]:
        meaning = f"whether the registers predict along, by {choice}"
        features.append(Feature(f"prediction_{choice}", "menu", meaning, read.setting("prediction", choice)))
    meaning = "levels of auxiliary above the default, over 2"
    features.append(Feature("auxiliary_level", "menu", meaning, read.level("auxiliary")))
    for kind in ("adalora", "prompt", "prefix"):
        meaning = f"whether a {kind} adapter is trained"
        features.append(Feature(f"adapter_{kind}", "menu", meaning, read.adapter(kind)))
    for template in range(1, TEMPLATES):
        meaning = f"whether texts are read in template {template}"
        features.append(Feature(f"template_{template}", "menu", meaning, read.setting("template", template)))
    shots = read.level("shots")
    features.append(Feature("shots", "menu", "labelled examples that stand before each text, over 2", shots))
    meaning = "whether the classification head was set to say the names of its classes"
    features.append(Feature("verbalised", "menu", meaning, read.setting("verbalised", True)))
    meaning = "log(FLOPs of a prediction / those of the whole model)"
    features.append(Feature("work", "menu", meaning, lambda h: math.log(h.last.work)))
    return tuple(features)


def _began(h: History, name: str) -> float:
    return float(bool(h.actions) and h.actions[-1].startswith(f"{name}_"))


def _took(back: int, name: str) -> Callable[[History], float]:
    return lambda h: float(len(h.actions) >= back and family(h.actions[-back]) == name)


FEATURES = _features()
MORE_FEATURES = _more_features()
"""What else is seen where the whole menu is on offer."""
NAMES = tuple(feature.name for feature in FEATURES)
WHOLE_NAMES = tuple(feature.name for feature in (*FEATURES, *MORE_FEATURES))
INDEX = {name: index for index, name in enumerate(NAMES)}
GROUPS = tuple(dict.fromkeys(feature.group for feature in FEATURES))


def observe(history: History, names: tuple[str, ...] = NAMES) -> NDArray[np.float32]:
    """The observation of a history with at least one measurement: float32, [F], in [-LIMIT, LIMIT].

    Args:
        history: The run so far.
        names: Of the entries: `NAMES`, or `WHOLE_NAMES` where the whole menu is on offer.
    """
    features = FEATURES if len(names) == len(FEATURES) else (*FEATURES, *MORE_FEATURES)
    values = [0.0 if feature.group in history.neutral else feature.read(history) for feature in features]
    clean = np.nan_to_num(np.array(values), nan=0.0, posinf=LIMIT, neginf=-LIMIT)
    return np.clip(clean, -LIMIT, LIMIT).astype(np.float32)
