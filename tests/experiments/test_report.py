"""`llmo report` at work on episodes that were really played."""

import json
from pathlib import Path

import pytest

from llmo.cli import main
from llmo.evaluation.result import Job, load_records
from llmo.evaluation.rollout import play
from llmo.evaluation.scores import score
from llmo.mdp.spec import env_spec


def test_the_command_reports_played_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = "llmo/LanguageModel-v0"
    cheap = sorted(range(64), key=lambda index: env_spec(env).draw("test", index, 1.0).budget)[:2]
    for record in play([Job(env, "test", index, agent) for agent in ("keep", "constant") for index in cheap]):
        job = record.result.job
        record.save(tmp_path / "episodes" / job.agent / f"{job.index}.jsonl")
    scores = score(load_records(tmp_path / "episodes"), "constant", "constant")
    assert {name: row["kind"] for name, row in scores["agents"].items()} == {"keep": "rule", "constant": "rule"}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"the report is in {tmp_path / 'report.html'}\n"
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "iqm.png", "win_matrix.png", "profile.png", "timeline.png",
    }  # fmt: skip
    assert f"{scores['agents']['keep']['iqm']:+.2f} [" in (tmp_path / "report.html").read_text()


def test_an_unusable_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(tmp_path / "nowhere" / "scores.json") in error
