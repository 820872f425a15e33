"""The command tunes for real, keeps what it played, resumes and refuses."""

import json
import sys
from pathlib import Path

import pytest

from llmo import catalog
from llmo.catalog.tuned import everything
from llmo.cli import main

PLUGIN = '''
from llmo.registry import agents
from llmo.schedules import PlainSchedule


@agents.register("planted")
class Planted(PlainSchedule):
    """From scratch one rate learns, the other does not."""

    grid = {"scratch": (1e-4, 1.0)}

    def __init__(self, scratch: float = 1e-4) -> None:
        super().__init__(scratch, 1.0)

    def shape(self, spent: float) -> float:
        return 1.0
'''


def test_the_command_tunes_a_rule_for_real_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "planted_rule.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    shipped = (catalog.ROOT / "agents" / "tuned.json").read_bytes()
    command = ["--plugin", "planted_rule", "tune", "--out", str(tmp_path / "tune"), "--instances", "2"]
    command += ["--agents", "planted", "--workers", "0"]
    try:
        assert main(command) == 0
        rule = json.loads((tmp_path / "tune" / "tuned.json").read_text())["rules"]["planted"]
        assert "scratch" in rule["score"]
        assert rule["parameters"] == {"scratch": 1.0}
        assert rule["env_steps"] > 0
        assert rule["command"].startswith("llmo tune --instances 2 --agents planted")
        assert "planted" in capsys.readouterr().out

        written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
        assert main([*command, "--resume"]) == 0
        assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
        assert json.loads((tmp_path / "tune" / "tuned.json").read_text())["rules"]["planted"] == rule
    finally:
        catalog.KINDS["agents"]._entries.pop("planted", None)
    assert (catalog.ROOT / "agents" / "tuned.json").read_bytes() == shipped


def test_rules_that_are_shipped_join_those_that_were_tuned_on_the_same() -> None:
    catalog.load("experiments")
    module = sys.modules[catalog.get("experiments", "tune").__module__]
    entry = everything()["llmo/LanguageModel-v1"]
    others = module.others_shipped("llmo/LanguageModel-v1", entry["instances"], {"update_ratio", "cosine"})
    assert others == {name: rule for name, rule in entry["rules"].items() if name not in ("update_ratio", "cosine")}

    # A control and a rule with an optimizer of its own are not what benchmarks compare with.
    scores = {"cosine": 1.0, "constant": 2.0, "scripted": 5.0, "open_loop": 6.0, "prodigy": 7.0}
    rules = {name: {"score": {"iqm": iqm}, "env_steps": 10} for name, iqm in scores.items()}
    whole = module.named(rules, "llmo/LanguageModel-v1")
    assert (whole["reference"], whole["best_rule"], whole["env_steps"]) == ("constant", "scripted", 50)
    assert whole["rules"] == rules


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--agents", "cosin"], ["'cosin'", "did you mean 'cosine'"]),
        (["--agents", "keep"], ["agent to tune 'keep'"]),
        (["--instances", "1"], ["instances 1", "at least 2"]),
        (["--agents", "constant", "--ship", "--instances", "3"], ["rules to ship with others 3"]),
        (["--agents", "constant", "--ship", "--env", "llmo/Adapters-v0"], ["'llmo/Adapters-v0'", "else all rules"]),
    ],
)
def test_a_wrong_option_is_one_line(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "--out", str(tmp_path / "new"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words)
    assert not (tmp_path / "new").exists()
