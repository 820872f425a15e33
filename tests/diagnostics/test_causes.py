import numpy as np
import pytest

from llmo.diagnostics.causes import CAUSES, diagnose
from llmo.diagnostics.features import INDEX, NAMES

HEALTHY = {"spent": -0.5, "gain_1": 0.2, "gain_2": 0.4, "gain_4": 0.8, "stalled": 0.25}


@pytest.mark.parametrize(
    ("seen", "cause", "words"),
    [
        ({}, "none", "2.0%"),
        ({"best_gap": 1.0}, "optimisation", "5% above"),
        ({"rate": 1.0}, "optimisation", "10 of the default"),
        ({"rate": 1.0, "spent": 0.8}, "optimisation", "10 of the default"),
        ({"rate": -1.0}, "optimisation", "0.1 of the default"),
        # A low rate is no fault once a schedule or a decay may have lowered it.
        ({"rate": -1.0, "spent": 0.8}, "none", ""),
        ({"rate": -1.0, "decaying": 1.0}, "none", ""),
        ({"train_gap": -0.6, "gain_2": -0.1}, "overfitting", "20% below"),
        ({"train_gap": -0.6}, "none", ""),
        ({"source_1_gap": 0.9, "source_2_gap": 0.03, "source_3_gap": 0.0}, "data", "30%, 1%, 0%"),
        # The source that lies far away is not in use.
        ({"source_1_gap": 0.9, "source_1_weight": -0.9, "source_2_weight": 0.9}, "none", ""),
        # All lie equally far away: no other mixture would help.
        ({"source_1_gap": 0.9, "source_2_gap": 0.9, "source_3_gap": 0.9}, "none", ""),
        ({"gain_1": 0.0, "gain_2": 0.0, "gain_4": 0.01, "stalled": 1.0}, "capacity", "0.1%"),
        # A new best within a step or two is no plateau.
        ({"gain_1": 0.0, "gain_2": 0.0, "gain_4": 0.01, "stalled": 0.5}, "none", ""),
        ({"best_gap": 1.0, "train_gap": -0.6, "gain_2": -0.1}, "optimisation", ""),
        ({"train_gap": -0.6, "gain_2": -0.1, "source_1_gap": 0.9}, "overfitting", ""),
    ],
)
def test_planted_faults_are_named(seen: dict[str, float], cause: str, words: str) -> None:
    observation = np.zeros(len(NAMES), np.float32)
    for name, value in {**HEALTHY, **seen}.items():
        observation[INDEX[name]] = value
    found, evidence = diagnose(observation)
    assert (found, words in evidence) == (cause, True), evidence
    assert found in CAUSES
