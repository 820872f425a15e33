"""The main job in small: learn, compare, report, replay, by the commands, with good and bad input."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmo import learned
from llmo.cli import main
from llmo.evaluation import learning
from llmo.policy_file import load_policy, save_policy

ENV = "llmo/LanguageModel-v0"
LEARN = ["train", ENV, "--steps", "32", "--replicas", "2", "--workers", "1", "--demonstrations", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "train"
    assert main([*LEARN, "--out", str(out)]) == 0
    return out


def compare(trained: Path, out: Path, *more: str) -> int:
    policy = str(trained / "policy")
    given = ["--agents", "keep,ppo", "--policy", policy, "--split", "dev", "--instances", "2", "--workers", "1"]
    return main(["benchmark", *given, "--out", str(out), *more])


def test_a_run_folder_has_all_that_it_should(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= {"policy", "progress.jsonl", "config.json", "checkpoints"}
    assert not list(trained.rglob("*.pkl")) + list(trained.rglob("*.zip")) + list(trained.rglob("*.pt"))
    card = json.loads((trained / "policy" / "policy.json").read_text())["card"]
    assert card["env_steps"] == 32
    assert len(card["corpus_sha256"]) == 64


def test_resuming_a_finished_run_changes_nothing(trained: Path) -> None:
    before = (trained / "policy" / "policy.safetensors").read_bytes(), (trained / "progress.jsonl").read_bytes()
    assert main([*LEARN, "--out", str(trained), "--resume"]) == 0
    assert (
        (trained / "policy" / "policy.safetensors").read_bytes(),
        (trained / "progress.jsonl").read_bytes(),
    ) == before


def test_a_policy_that_has_changed_is_not_scored_by_old_episodes(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(trained / "policy", policy)
    words = ["benchmark", "--agents", "ppo", "--policy", str(policy), "--split", "dev", "--instances", "1"]
    words += ["--workers", "0", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    stored = load_policy(policy)
    save_policy(policy, {name: 2 * tensor for name, tensor in stored.tensors.items()}, stored.settings, stored.card)
    assert main([*words, "--resume"]) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: str) -> bytes:
        # Two slots of 4 steps make an update.
        words = ["train", ENV, "--replicas", "2", "--workers", "0", "--steps", "48"]
        words += ["--demonstrations", "0", "--reward", "gain"]
        assert main([*words, "--out", str(tmp_path / folder), "--resume"]) == 0
        return (tmp_path / folder / "policy" / "policy.safetensors").read_bytes()

    monkeypatch.setattr(learned, "ROLLOUT", 4)
    monkeypatch.setattr(learning, "EVERY", 4)
    whole = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(learning, "_save_checkpoint", saved_and_killed)
        with pytest.raises(Killed):
            run("halves")
    assert run("halves") == whole
    lines = [(tmp_path / folder / "progress.jsonl").read_text().splitlines() for folder in ("halves", "whole")]
    returns = [[json.loads(line)["return"] for line in part] for part in lines]
    assert returns[0] == returns[1] and len(returns[0]) == 6


class Killed(BaseException):
    """What a test stops a run with."""


def saved_and_killed(*arguments: Any, save: Any = learning._save_checkpoint) -> None:
    save(*arguments)
    raise Killed


def test_without_steps_the_policy_only_imitates(tmp_path: Path) -> None:
    words = ["train", ENV, "--steps", "0", "--replicas", "2", "--workers", "0", "--demonstrations", "2"]
    assert main([*words, "--out", str(tmp_path / "imitation")]) == 0
    assert load_policy(str(tmp_path / "imitation" / "policy")).card["env_steps"] == 0
    assert not (tmp_path / "imitation" / "progress.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--seed", "1", "--resume"], "seed"),
        (["--steps", "64", "--resume"], "steps"),
        (["--reward", "gains"], "did you mean 'gain'"),
        (["--teacher", "scriptd"], "did you mean 'scripted'"),
        (["--agent", "keep"], "one that learns"),
        (["--steps", "-1"], "at least 0"),
        (["--gamma", "1.1"], "at most 1"),
        (["--replicas", "3", "--workers", "2"], "multiple"),
        ([], "--resume"),
    ],
)
def test_bad_input_of_train_is_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], change: list[str], named: str
) -> None:
    out = trained if not change or "--resume" in change else trained.parent / "new"
    assert main([*LEARN, *change, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_the_policy_is_compared_reported_and_replayed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "benchmark"
    assert compare(trained, out) == 0
    table = capsys.readouterr().out
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores["agents"]) == {"keep", "ppo", scores["reference"]}
    assert scores["agents"][scores["reference"]]["iqm"] == 0
    assert all(f"| {name}" in table for name in scores["agents"])
    episodes = {path: path.read_bytes() for path in out.rglob("*.jsonl")}
    assert len(episodes) == 6
    assert compare(trained, out, "--resume") == 0
    assert {path: path.read_bytes() for path in out.rglob("*.jsonl")} == episodes
    assert main(["report", str(out), "--train", str(trained)]) == 0
    assert "<html" in (out / "report.html").read_text()
    assert main(["replay", str(out)]) == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--agents", "kep"], "did you mean 'keep'"),
        (["--split", "tests"], "did you mean 'test'"),
        (["--env", "llmo/LanguageModl-v1"], "did you mean 'llmo/LanguageModel-v1'"),
        (["--instances", "0"], "at least 1"),
        (["--agents", "ppo", "--policy", "nowhere"], "nowhere"),
        (["--agents", "keep", "--policy", "nowhere"], "no agent plays one"),
        (["--workers", "-1"], "workers"),
        (["--instnaces", "2"], "did you mean '--instances'"),
    ],
)
def test_bad_input_of_benchmark_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], named: str
) -> None:
    assert main(["benchmark", *change, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
