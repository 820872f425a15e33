"""What an agent must obey: it plays any number of runs, each as if it were alone, and with equal seeds the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from llmo import catalog
from llmo.agent import Agent, LearningAgent
from llmo.evaluation.compare import difference
from llmo.evaluation.findings import Findings, require, require_same
from llmo.evaluation.result import EpisodeRecord, Job
from llmo.evaluation.rollout import play
from llmo.mdp.spec import env_spec

BUDGET = 0.3
"""Share of the budget that agents are checked with: a handful of steps."""
SEARCH_BUDGET = 0.15
"""The same for agents that look ahead at every step, which takes them many times as long."""


def check_agent(name: str, findings: Findings) -> None:
    """Check an agent by its registered name, on the first environment."""
    made: Agent | None = None
    with findings.that("is an Agent, whose parameters have defaults"):
        agent = catalog.make_agent(name)
        require(isinstance(agent, Agent), f"it is a {type(agent).__name__}")
        made = agent
    if made is None:
        return
    with findings.that("the values that `tune` tries are accepted"):
        for parameter, values in made.grid.items():
            for value in values:
                catalog.make_agent(name, **{parameter: value})
    catalog.load("envs")
    env = catalog.KINDS["envs"].names()[0]
    with tempfile.TemporaryDirectory() as folder:
        parameters: tuple[tuple[str, Any], ...] = ()
        if isinstance(made, LearningAgent):
            with findings.that("learns, and saves what it has learned"):
                parameters = (("policy", str(_learned(made, env, Path(folder)))),)
            if not parameters:
                return
        _check_play(made, _jobs(name, env, parameters, SEARCH_BUDGET if made.search else BUDGET), findings)


def _jobs(name: str, env: str, parameters: tuple[tuple[str, Any], ...], budget: float) -> list[Job]:
    """Three cheap train instances, their models of one shape or not."""
    spec = env_spec(env)
    cheap = sorted(range(48), key=lambda index: spec.draw("train", index, 1.0).budget)[:3]
    return [Job(env, "train", index, name, parameters, seed=1, budget=budget) for index in cheap]


def _check_play(agent: Agent, jobs: list[Job], findings: Findings) -> None:
    together: list[EpisodeRecord] = []
    with findings.that("sets a rate schedule, or None, for each run"):
        agent = catalog.make_agent(jobs[0].agent, **dict(jobs[0].parameters))
        agent.bind(env_spec(jobs[0].env).space)
        agent.reset([1, 2])
        schedules = agent.schedules(["scratch", "pretrained"])
        require(len(schedules) == 2, f"{len(schedules)} schedules for 2 runs")
        rates = [schedule(spent) for schedule in schedules if schedule for spent in (0.0, 0.3, 1.0)]
        require(all(0 <= rate < float("inf") for rate in rates), f"a rate is {rates}")
    with findings.that("plays three runs at once"):
        together = play(jobs)
    if not together:
        return
    with findings.that("plays one run as it does among others, and again the same"):
        (alone,) = play(jobs[-1:])
        require_same(difference(together[-1].decisions, alone.decisions, "decisions"))
        require_same(difference(together[-1].result.test_loss, alone.result.test_loss, "test loss"))
    with findings.that("says what looking ahead has cost, if it does"):
        costs = [record.result.search_flops for record in together]
        require(all((cost > 0) == agent.search for cost in costs), f"FLOPs outside the budget: {costs}")


def _learned(agent: LearningAgent, env: str, folder: Path) -> Path:
    """What the agent has learned from the first update on two slots."""
    from llmo.mdp.sb3_env import PopulationVecEnv
    from llmo.run_dir import RunDir

    with RunDir(folder / "run") as run:
        agent.learn(env_spec(env).space, PopulationVecEnv(env, 2, budget_scale=BUDGET), 1, run, None, lambda line: None)
    agent.save(folder / "policy", {"env": env})
    return folder / "policy"
