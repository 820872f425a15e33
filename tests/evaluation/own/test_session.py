"""A session that is killed goes on as if nothing had been."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmo import catalog
from llmo.budget import sequence_cost
from llmo.engine.own_models import open_model
from llmo.errors import LlmoError
from llmo.evaluation.own.session import Session
from llmo.mdp.own import LEAST_VALIDATION, OwnProblem, own_cost, own_spec, plan, with_affordable_validation
from llmo.mdp.own_source import example_own
from llmo.mdp.spec import EnvSpec
from llmo.run_dir import RunDir
from llmo.tasks.labelled import Labelled
from llmo.tasks.task import Examples


def examples(count: int, seed: int) -> Examples:
    """Texts of two letters of one kind or of the other, and which kind it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count, 1), generator=generator)
    return Examples(torch.randint(10, (count, 8), generator=generator) + 40 * labels, labels)


def make_spec(rank: int = 0, budget: float = 400.0, sources: int = 1) -> EnvSpec:
    model = open_model("scratch:8x2", "classification").build(("no", "yes"), 0)
    material = [examples(50, seed) for seed in range(3)]
    if sources == 1:
        material = [material[0]] * 3
    task = Labelled(tuple(material), examples(16, 3), examples(16, 4))
    cost = sequence_cost(model.config, 8, rank, kind="classification", positions=1)
    own = OwnProblem("own", model, task, sources, "scratch", 4, budget * cost.train * 4, rank)
    return own_spec(own)


def train(folder: Path, spec: EnvSpec, agent: str, stop: int | None = None, resume: bool = False) -> Session:
    torch.set_num_threads(1)
    with RunDir(folder, resume) as run:
        session = Session(spec, catalog.make_agent(agent), 5, run, saved_every=0.0)
        if stop is None:
            session.finish(lambda _: None)
        else:
            for _ in range(stop):
                session.step()
                session._save()
            session.step()  # done, but never saved
    return session


@pytest.mark.parametrize(("agent", "rank"), [("ppo", 0), ("reflection", 0), ("cosine", 0), ("random", 0), ("tutor", 4)])
def test_a_killed_session_ends_in_the_same_bits(tmp_path: Path, agent: str, rank: int) -> None:
    spec = make_spec(rank)
    whole = train(tmp_path / "whole", spec, agent)
    train(tmp_path / "killed", spec, agent, stop=6)
    again = train(tmp_path / "killed", spec, agent, resume=True)
    assert torch.equal(whole.delivered(), again.delivered())
    assert repr(whole.decisions) == repr(again.decisions)
    lines = [(tmp_path / name / "decisions.jsonl").read_bytes() for name in ("whole", "killed")]
    assert lines[0] == lines[1] and lines[0].count(b"\n") == len(whole.decisions)


def test_training_helps_and_the_budget_is_spent(tmp_path: Path) -> None:
    session = train(tmp_path, make_spec(), "tutor")
    losses = [decision.best_validation_loss for decision in session.decisions]
    assert losses[-1] < 0.01 < losses[0]
    assert 0.95 < session.decisions[-1].spent <= 1.0
    assert 14 <= len(session.decisions) <= 24
    assert not any(decision.action.startswith("source") for decision in session.decisions)


@pytest.mark.parametrize("agent", ["pbt", "search_1", "prodigy"])
def test_agents_that_need_more_than_one_run_are_refused(tmp_path: Path, agent: str) -> None:
    with pytest.raises(LlmoError, match="one that trains a single run"):
        train(tmp_path, make_spec(), agent)


def test_a_plan_spends_the_budget_in_about_twenty_steps() -> None:
    cost: Any = sequence_cost(open_model("scratch:8x2", "causal_lm").config, 8)
    for budget, steps in ((5e3, 20), (300.0, 20), (40.0, 9), (1.0, 1)):
        flops = 16 * cost.forward * 21 + budget * 4 * cost.train if budget > 1 else 32 * cost.forward + 4.1 * cost.train
        found, interval = plan(cost, 16, 4, flops)
        spent = 16 * cost.forward + found * (16 * cost.forward + interval * 4 * cost.train)
        assert spent <= flops * (1 + 1e-6) and interval >= 1
        assert found == steps if budget != 40 else 1 < found < 20
        assert spent > 0.75 * flops
    with pytest.raises(LlmoError, match="one step between two validation passes"):
        plan(cost, 16, 4, 32 * cost.forward + 3.9 * cost.train)


def test_train_instances_differ_and_follow_from_their_index() -> None:
    spec = make_spec()
    drawn = [spec.draw("train", index, 1.0) for index in range(20)]
    assert drawn == [spec.draw("train", index, 1.0) for index in range(20)]
    assert len({instance.seed for instance in drawn}) == 20
    assert min(np.log10([instance.rate_factor for instance in drawn])) < -0.5
    assert max(np.log10([instance.rate_factor for instance in drawn])) > 0.5
    real = spec.draw("test", 0, 1.0)
    assert real.rate_factor == 1.0 and all(instance.budget <= real.budget for instance in drawn)


def test_validation_takes_no_more_than_its_share_of_a_small_budget() -> None:
    own = example_own()
    cost = own_cost(own)
    assert len(own.task.validation.inputs) == LEAST_VALIDATION
    more = replace(own, task=copy.copy(own.task))
    many = Examples(own.task.validation.inputs.repeat(16, 1), own.task.validation.labels.repeat(16, 1))
    more.task.validation = many
    for share, wanted in ((1.0, len(many.inputs)), (0.5, len(many.inputs) // 2), (0.001, LEAST_VALIDATION)):
        budget = 21.001 * share * len(many.inputs) * cost.forward / 0.25
        found = with_affordable_validation(replace(more, budget=budget))
        assert len(found.task.validation.inputs) == wanted
    assert len(more.task.validation.inputs) == len(many.inputs)
