"""Causes named from planted features, and on planted runs."""

import numpy as np
import pytest
import torch

from llmo import catalog
from llmo.diagnostics.causes import CAUSES, diagnose
from llmo.diagnostics.features import INDEX, NAMES, WHOLE_NAMES
from llmo.errors import LlmoError
from llmo.mdp.plants import PLANTS, planted_instance

HEALTHY = {"spent": 0.2, "gain_1": 0.2, "gain_2": 0.4, "gain_4": 0.8, "gain_total": 1.0, "stalled": 0.25}
HEALTHY |= {f"source_{slot}_size": 1.0 for slot in (1, 2, 3)}
STALLED = {"gain_1": 0.0, "gain_2": 0.0, "gain_4": 0.1}
LOW = {"train_gap": -0.6, "gain_2": -0.1}


@pytest.mark.parametrize(
    ("seen", "cause", "words"),
    [
        ({}, "none", "2.0%"),
        ({"best_gap": 1.0}, "instability", "5% above"),
        ({"rate": 1.0}, "instability", "10 of the default"),
        ({"rate": 1.0, "spent": 0.8}, "instability", "10 of the default"),
        ({"rate": -1.0, "spent": -0.5}, "optimisation", "0.1 of the default"),
        ({"rate": -2.0, "base_rate": -2.0}, "optimisation", "0.01 of the default"),
        # A low rate is no fault once a schedule or a decay may have lowered it.
        ({"rate": -1.0, "spent": 0.8}, "none", ""),
        ({"rate": -1.0, "spent": -0.5, "decaying": 1.0}, "none", ""),
        (LOW, "overfitting", "20% below"),
        ({**LOW, **{f"source_{slot}_size": -1.0 for slot in (1, 2, 3)}}, "data quantity", "hold 1000 tokens"),
        # Where sources cannot be seen, nobody knows how much they hold.
        ({**LOW, **{f"source_{slot}_size": 0.0 for slot in (1, 2, 3)}}, "overfitting", ""),
        ({"train_gap": -0.6}, "none", ""),
        ({"train_gap": -1.2}, "overfitting", "40% below"),
        ({"source_1_gap": 0.9, "source_2_gap": 0.03, "source_3_gap": 0.0}, "data quality", "30%, 1%, 0%"),
        # The source that lies far away is not in use.
        ({"source_1_gap": 0.9, "source_1_weight": -0.9, "source_2_weight": 0.9}, "none", ""),
        # All lie equally far away: no other mixture would help.
        ({"source_1_gap": 0.9, "source_2_gap": 0.9, "source_3_gap": 0.9}, "none", ""),
        ({**STALLED, "norm_trend": 0.1}, "capacity", "1.0%"),
        ({**STALLED, "norm_trend": -0.2}, "data quality", "-18%"),
        # Early on, and where the rate decays, a small gain says nothing.
        ({**STALLED, "spent": -0.8}, "none", ""),
        ({**STALLED, "decaying": 1.0}, "none", ""),
        ({"best_gap": 1.0, **LOW}, "overfitting", ""),
        ({**LOW, "source_1_gap": 0.9}, "overfitting", ""),
    ],
)
def test_planted_faults_are_named(seen: dict[str, float], cause: str, words: str) -> None:
    observation = np.zeros(len(NAMES), np.float32)
    for name, value in {**HEALTHY, **seen}.items():
        observation[INDEX[name]] = value
    found, evidence = diagnose(observation)
    assert (found, words in evidence) == (cause, True), evidence
    assert found in CAUSES


def test_what_is_forgotten_is_seen_with_the_whole_menu() -> None:
    observation = np.zeros(len(WHOLE_NAMES), np.float32)
    for name, value in HEALTHY.items():
        observation[INDEX[name]] = value
    assert diagnose(observation)[0] == "none"
    observation[WHOLE_NAMES.index("forgotten")] = 0.5
    assert diagnose(observation) == ("forgetting", "the loss on earlier data is 5.0% above its lowest")


def test_every_cause_is_planted_and_nothing_else() -> None:
    assert set(PLANTS) == set(CAUSES)
    with pytest.raises(LlmoError, match="did you mean 'capacity'"):
        planted_instance("capacty", "train", 0)


@pytest.mark.parametrize("cause", ["optimisation", "data quantity", "overfitting"])
def test_what_was_planted_is_named(cause: str) -> None:
    """The quick ones, on held-out plants; `llmo causes` has them all."""
    torch.set_num_threads(1)
    name_all = catalog.get("experiments", "causes").__globals__["name_all"]
    assert name_all(cause, "dev", 3).count(cause) >= 2
