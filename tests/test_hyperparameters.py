import dataclasses
import itertools
import math

import pytest

from llmo.errors import LlmoError
from llmo.hyperparameters import (
    DROPOUT_LEVELS,
    WEIGHT_DECAY_LEVELS,
    Hyperparameters,
    default_learning_rate,
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("regularisation", -1),
        ("regularisation", len(WEIGHT_DECAY_LEVELS)),
        ("augmentation", "noise"),
        ("mixing", "source_4"),
        ("distillation", "self"),
        ("decay_from", 1.5),
        ("decay_from", math.nan),
    ],
)
def test_a_value_out_of_bounds_is_refused(name: str, value: object) -> None:
    with pytest.raises(LlmoError, match=r"allowed is"):
        dataclasses.replace(Hyperparameters(learning_rate=0.01), **{name: value})


def test_levels_of_regularisation_grow_together() -> None:
    assert len(WEIGHT_DECAY_LEVELS) == len(DROPOUT_LEVELS)
    levels = [Hyperparameters(0.01, regularisation=level) for level in range(len(WEIGHT_DECAY_LEVELS))]
    for weaker, stronger in itertools.pairwise(levels):
        assert weaker.weight_decay < stronger.weight_decay
        assert weaker.dropout <= stronger.dropout < 1
    assert (levels[0].weight_decay, levels[0].dropout) == (0, 0)


def test_the_decay_is_a_straight_line_to_zero() -> None:
    settings = Hyperparameters(0.08, decay_from=0.6)
    rates = {spent: settings.rate_at(spent) for spent in (0.0, 0.6, 0.7, 0.8, 0.9, 1.0)}
    expected = {0.0: 0.08, 0.6: 0.08, 0.7: 0.06, 0.8: 0.04, 0.9: 0.02, 1.0: 0.0}
    assert rates == pytest.approx(expected)
    assert Hyperparameters(0.08).rate_at(1.0) == 0.08


def test_the_default_rate_is_a_power_law_of_size() -> None:
    for start, adapter in itertools.product(("scratch", "pretrained"), ("full", "lora")):
        rates = [default_learning_rate(10**power, start, adapter) for power in range(4, 9)]
        slopes = [math.log10(b / a) for a, b in itertools.pairwise(rates)]
        assert slopes == pytest.approx([-0.35] * 4)
        assert default_learning_rate(10**6, start, "lora") == 2 * default_learning_rate(10**6, start, "full")
    # Common practice: GPT-2 of 124M parameters is trained with 6e-4, and fine-tuned with less.
    assert 2e-4 < default_learning_rate(124_000_000, "scratch", "full") < 1e-3
    assert default_learning_rate(10**6, "pretrained", "full") < default_learning_rate(10**6, "scratch", "full")
