"""`llmo train` goes on from a policy: that is its teacher, and what it knows is kept."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from llmo import catalog
from llmo.cli import main
from llmo.evaluation.demonstrations import demonstrate
from llmo.evaluation.workers import HERE
from llmo.policy_file import load_policy

ENV = "llmo/LanguageModel-v1"
SMALL = ["train", ENV, "--workers", "0", "--replicas", "2", "--demonstrations", "1", "--steps", "0"]


def test_a_policy_is_its_own_teacher_and_is_gone_on_from(tmp_path: Path) -> None:
    assert main([*SMALL, "--start", "shipped", "--out", str(tmp_path)]) == 0
    shipped = catalog.get("agents", "ppo").shipped
    curves = json.loads((tmp_path / "curves.json").read_text())
    taught = demonstrate(ENV, "ppo", range(1), HERE, 2, "batched", str(shipped)).curves
    assert {int(index): curve["losses"] for index, curve in curves.items()} == {
        index: list(curve.losses) for index, curve in taught.items()
    }
    old, new = load_policy(shipped), load_policy(tmp_path / "policy")
    assert new.card["start"] == "shipped"
    # Imitating a few of its own moves changes little: from nothing, weights would have nothing in common.
    for name, weights in old.tensors.items():
        assert np.corrcoef(weights.flatten(), new.tensors[name].flatten())[0, 1] > 0.5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--start", "shipped", "--agent", "ppo_recurrent"], "one that goes on from a policy, such as ppo"),
        (["--start", "shipped", "--agent", "ppo_stacked"], "none comes with this agent"),
        (["--start", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_gone_on_from(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *words, "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error


def test_a_model_of_yours_goes_on_from_the_policy_for_such() -> None:
    module = sys.modules[catalog.get("experiments", "train").__module__]
    learner = catalog.make_agent("ppo")
    found = [module._start_of("ppo", learner, "shipped", own) for own in (False, True)]
    assert found == [str(learner.shipped), str(learner.shipped_own)] and found[0] != found[1]
