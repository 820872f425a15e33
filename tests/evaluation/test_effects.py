"""Effects of actions: at equal cost, against planted curves, and of a repair that is known to help."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from llmo.cli import main
from llmo.evaluation.effect_plots import plot_effects
from llmo.evaluation.effects import PHASES, Effect, _gain, branch, summary
from llmo.mdp.reference import Curve
from llmo.mdp.spec import env_spec

ENV = "llmo/LanguageModel-NoSwaps-v1"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_curves_are_compared_after_as_many_flops() -> None:
    keep = Curve((0.0, 0.1, 0.2, 0.3, 0.4), (2.0, 1.9, 1.8, 1.7, 1.6))
    dear = Curve((0.0, 0.2, 0.4), (2.0, 1.75, 1.5))
    assert _gain(dear, keep, 1) == pytest.approx(100 * (1.8 - 1.75))
    assert _gain(dear, keep, 3) == pytest.approx(100 * (1.6 - 1.5)) == _gain(dear, keep, 10**6)
    assert _gain(keep, keep, 1) == _gain(keep, keep, 3) == 0


def test_a_summary_has_planted_means_by_cause_and_phase(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    effects = []
    for instance in range(40):
        for phase in PHASES:
            cause = "instability" if instance % 2 else "none"
            gain = (4.0 if cause == "instability" else -1.0) + rng.normal(0, 0.5)
            for action, value in (("keep", 0.0), ("rate_x0.5", gain)):
                effects.append(Effect(instance, "keep", phase, cause, action, {"1": 0.0, "3": 0.0, "all": value}))
    effects.append(Effect(0, "keep", "late", "capacity", "rate_x2", {"1": 0.0, "3": 0.0, "all": 9.0}))
    found = summary(effects)["all"]
    row = found["instability"]["rate_x0.5"]
    assert row["mean"] == pytest.approx(4.0, abs=0.2) and row["low"] < 4.0 < row["high"] and row["low"] > 3.7
    assert found["none"]["rate_x0.5"]["high"] < 0 and found["early"]["rate_x0.5"]["mean"] == pytest.approx(1.5, abs=0.3)
    assert row["moments"] == 60 and "capacity" not in found, "one moment is no mean"
    few = [effect for effect in effects if effect.instance < 4]
    assert summary(few)["all"] == {}, "nor are many moments of four runs"
    content = {"effects": summary(effects), "moments": {"all": 120, "early": 40, "middle": 40, "late": 40}}
    content["moments"] |= {"instability": 60, "none": 60}
    plot_effects(content, tmp_path / "effects.png")
    assert (tmp_path / "effects.png").stat().st_size > 10_000


def test_repairing_a_rate_that_is_far_too_high_is_found_to_pay() -> None:
    spec = env_spec(ENV)
    drawn = (spec.draw("train", index, 1.0) for index in range(200))
    instance = next(one for one in drawn if one.rate_factor > 20 and one.interval < 10 and not one.closed)
    effects = branch(ENV, "train", instance.index, "keep")
    early = {effect.action: effect for effect in effects if effect.phase == "early"}
    assert set(early) <= set(spec.menu) and early["keep"].gains == {"1": 0.0, "3": 0.0, "all": 0.0}
    best = max(early, key=lambda name: early[name].gains["all"])
    assert best.startswith("rate_") and early[best].gains["all"] > 2
    assert {effect.phase for effect in effects} == set(PHASES)
    wanted = [effect for effect in effects if effect.action in ("keep", best)]
    assert branch(ENV, "train", instance.index, "keep", actions=[best]) == wanted


def test_a_run_is_branched_behind_what_it_took_before() -> None:
    full = "llmo/LanguageModel-Full-v0"
    effects = branch(full, "train", 0, "keep", actions=["units_widen", "block_add"], before=["units_prune", "keep"])
    assert {effect.action for effect in effects} == {"keep", "units_widen"}, "a block was not removed"
    widened = [effect.gains["all"] for effect in effects if effect.action == "units_widen"]
    assert 1 <= len(widened) <= len(PHASES) and any(gain != 0 for gain in widened)
    assert branch(full, "train", 0, "keep", actions=["rate_x2"], before=["rollback"] * 50) == [], "it was over before"


def test_the_command_continues_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["action_effects", "--env", ENV, "--bases", "[keep]", "--workers", "0", "--out", str(tmp_path / "effects")]
    assert main([*given, "--instances", "1"]) == 0
    file = tmp_path / "effects" / "branches" / "00000.json"
    before = file.stat().st_mtime_ns
    assert main([*given, "--instances", "1", "--resume", "true"]) == 0
    assert file.stat().st_mtime_ns == before
    content = json.loads((tmp_path / "effects" / "effects.json").read_text())
    assert content["moments"]["all"] == len(PHASES) and set(content["effects"]) == {"1", "3", "all"}
    assert not (tmp_path / "effects" / "effects.png").exists(), "one run has no means to draw"
    assert "too few moments" in capsys.readouterr().out
    assert main([*given, "--instances", "1"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["action_effects", "--bases", "[kepp]", "--out", str(tmp_path / "other")]) == 2
    assert "did you mean 'keep'" in capsys.readouterr().err
    never = ["--before", "[augment_off]", "--out", str(tmp_path / "never"), "--instances", "1"]
    assert main([*given, *never]) == 0
    assert "0 moments of 1 train runs" in capsys.readouterr().out
    for option in ("--actions", "--before"):
        assert main(["action_effects", option, "[rollbak]", "--out", str(tmp_path / "other")]) == 2
        assert "did you mean 'rollback'" in capsys.readouterr().err
