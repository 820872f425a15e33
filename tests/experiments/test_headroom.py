"""What the headroom says of planted results."""

import json
import math
from pathlib import Path

import pytest

from llmo import catalog
from llmo.catalog.tuned import best_rule, reference_rule, tuned_parameters
from llmo.cli import main
from llmo.evaluation.episodes import episode_file
from llmo.evaluation.result import EpisodeRecord, Job, Result
from llmo.tasks.text import load_corpus


def result(agent: str, index: int, loss: float, searched: float = 0.0) -> Result:
    return Result(
        job=Job("llmo/LanguageModel-v1", "train", index, agent, tuple(sorted(tuned_parameters(agent).items()))),
        start="scratch" if index % 2 else "pretrained",
        text_group=f"group {index}",
        test_loss=loss,
        validation_loss=loss,
        initial_validation_loss=6.0,
        budget_flops=100.0,
        spent_flops=90.0,
        search_flops=searched,
        wall_s=1.0,
        diverged=False,
        masked=0,
        total_reward=0.0,
        corpus_sha256=load_corpus().sha256,
    )


def test_planted_gains_are_told_apart_by_start() -> None:
    catalog.get("experiments", "headroom")
    from llmo.catalog.experiments.headroom import score  # type: ignore[import-not-found]

    base = [result("constant", index, 4.0) for index in range(8)]
    search = [result("search_1", index, 4.0 * math.exp(-0.02 if index % 2 else 0.0), 500.0) for index in range(8)]
    rows = score([*base, *search], "constant")
    assert rows["constant"]["all"]["iqm"] == 0
    assert rows["search_1"]["scratch"] == pytest.approx({"iqm": 2.0, "low": 2.0, "high": 2.0, "instances": 4})
    assert rows["search_1"]["pretrained"] == pytest.approx({"iqm": 0.0, "low": 0.0, "high": 0.0, "instances": 4})
    assert rows["search_1"]["all"]["iqm"] == pytest.approx(1.0)
    assert (rows["search_1"]["search_budgets"], rows["constant"]["search_budgets"]) == (5.0, 0.0)


def test_the_command_scores_what_was_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every episode lies there already, so that none is played."""
    out = tmp_path / "headroom"
    gains = {best_rule(): 0.01, reference_rule(): 0.0, "keep": -0.03, "search_1": 0.02, "search_3": 0.03}
    for agent, gain in {**gains, "search_full": 0.05}.items():
        for index in range(4):
            planted = result(agent, index, 4.0 * math.exp(-gain), 1000.0 * agent.startswith("search"))
            EpisodeRecord((), planted).save(out / "episodes" / episode_file(planted.job))
    assert main(["headroom", "--out", str(out), "--instances", "4", "--workers", "0", "--resume"]) == 0
    content = json.loads((out / "headroom.json").read_text())
    found = {name: row["all"]["iqm"] for name, row in content["agents"].items()}
    assert found == pytest.approx({name: 100 * gain for name, gain in {**gains, "search_full": 0.05}.items()})
    assert content["reference"] == reference_rule()
    assert "search_full +5.00 [+5.00, +5.00]" in " ".join(capsys.readouterr().out.split())


def test_no_instances_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["headroom", "--out", str(tmp_path / "new"), "--instances", "0"]) == 2
    assert "instances 0" in capsys.readouterr().err
