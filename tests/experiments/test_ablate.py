"""What the ablations say of planted results."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from llmo import catalog
from llmo.agent import Space
from llmo.cli import main
from llmo.evaluation.episodes import episode_file
from llmo.evaluation.result import EpisodeRecord, Job, Result, policy_job
from llmo.learned import NetworkAgent
from llmo.mdp.spec import env_spec
from llmo.tasks.text import load_corpus

GAINS = {"base": 0.03, "no_gradient_features": 0.02, "shuffled": -0.05}


def plant(folder: Path, job: Job, gain: float) -> None:
    result = Result(
        job=job,
        start="scratch",
        text_group=f"group {job.index}",
        test_loss=4.0 * math.exp(-gain),
        validation_loss=4.0,
        initial_validation_loss=6.0,
        budget_flops=100.0,
        spent_flops=90.0,
        search_flops=0.0,
        wall_s=1.0,
        diverged=False,
        masked=0,
        total_reward=0.0,
        corpus_sha256=load_corpus().sha256,
    )
    EpisodeRecord((), result).save(folder / "episodes" / episode_file(job))


def policy(folder: Path, space: Space) -> str:
    agent = catalog.make_agent("ppo")
    assert isinstance(agent, NetworkAgent)
    agent.space = space
    agent.play(agent.network(space.features, space.actions, agent.hidden), space.actions, space.features)
    agent.save(folder / "policy", {})
    return str(folder / "policy")


def test_the_command_compares_what_was_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every policy and episode lies there already, so that nothing is trained or played."""
    for name, suffix in (("base", ""), ("no_gradient_features", "-NoGradients")):
        env = f"llmo/LanguageModel{suffix}-v1"
        saved = policy(tmp_path / name, env_spec(env).space)
        for index in range(1000, 1004):
            jobs = {name: policy_job(env, "dev", index, "ppo", saved)}
            if name == "base":
                jobs["shuffled"] = policy_job(env, "dev", index, "ppo_shuffled", saved)
            for which, job in jobs.items():
                plant(tmp_path / name, replace(job, executor="compiled"), GAINS[which])
    command = ["ablate", "--variants", "no_gradient_features", "--instances", "4", "--workers", "0"]
    assert main([*command, "--out", str(tmp_path), "--resume"]) == 0
    found = json.loads((tmp_path / "ablations.json").read_text())["variants"]
    assert {name: row["iqm"] for name, row in found.items()} == pytest.approx(
        {"no_gradient_features": -1.0, "shuffled_observations": -8.0}
    )
    assert "| no_gradient_features | -1.00 [-1.00, -1.00] |" in capsys.readouterr().out


def test_an_unknown_variant_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--variants", "no_gradient", "--out", str(tmp_path / "new")]) == 2
    assert "did you mean 'no_gradient_features'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
