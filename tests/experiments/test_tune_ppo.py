"""The search tries PPO's own values first, judges policies by real episodes, continues, and refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmo.cli import main

SMALL = ["tune_ppo", "--steps", "16", "--demonstrations", "1", "--instances", "1", "--replicas", "1"]


def test_a_search_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def search(trials: int) -> list[dict[str, Any]]:
        assert main([*SMALL, "--trials", str(trials), "--workers", "0", "--out", str(tmp_path), "--resume"]) == 0
        found = json.loads((tmp_path / "tuned_ppo.json").read_text())
        assert found["best"]["gain"] == max(trial["gain"] for trial in found["trials"])
        assert f"best of {trials}: " in capsys.readouterr().out
        trials_found: list[dict[str, Any]] = found["trials"]
        return trials_found

    first = search(1)
    assert first[0]["parameters"] == {"rate": 1e-3, "entropy": 0.01, "gae_lambda": 0.9, "epochs": 8, "width": 64}
    both = search(2)
    assert both[0] == first[0] and both[1]["parameters"] != first[0]["parameters"]
    # Stopped after a training and before its result was written; others were faster.
    (tmp_path / "trial-000.json").unlink()
    assert search(2) == both


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--trials", "0"], ["trials 0", "at least 1"]),
        (["--env", "llmo/LanguageModel-v9"], ["did you mean"]),
        (["--workers", "many"], ["ray:N"]),
    ],
)
def test_a_wrong_option_is_one_line(
    change: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *change, "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words)
