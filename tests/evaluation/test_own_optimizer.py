"""Optimizers of other libraries: with torch's AdamW the plain loop is what the engine does."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch

from llmo import catalog
from llmo.engine.optimizer import BETAS, EPSILON
from llmo.errors import LlmoError
from llmo.evaluation.own_optimizer import OptimizerPopulation
from llmo.evaluation.result import Job
from llmo.evaluation.rollout import play
from llmo.mdp.population import Population
from llmo.mdp.spec import env_spec

ENV = "llmo/LanguageModel-v1"
BUDGET = 0.2


def adamw(parameters: Iterable[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=rate, betas=BETAS, eps=EPSILON, weight_decay=0.01)


@pytest.mark.parametrize("index", [1, 3])
def test_with_torchs_adamw_it_trains_as_the_engine_does(index: int) -> None:
    spec = env_spec(ENV)
    instance = spec.draw("train", index, BUDGET)
    (ours,) = Population(spec, executor="single").keep_to_the_end([instance], [lambda spent: 1.0])
    (theirs,) = OptimizerPopulation(spec, adamw).keep_to_the_end([instance], [None])
    assert len(ours) == len(theirs) > 2
    for a, b in zip(ours, theirs, strict=True):
        assert a.validation_loss == pytest.approx(b.validation_loss, abs=2e-3)
        assert a.spent == b.spent
        assert a.source_share == b.source_share


@pytest.mark.parametrize("name", ["schedule_free", "prodigy"])
def test_rivals_learn_and_play_alike_alone_and_among_others(name: str) -> None:
    jobs = [Job(ENV, "train", index, name, budget=BUDGET) for index in (1, 3)]
    together = play([*jobs, Job(ENV, "train", 1, "constant", budget=BUDGET)])
    assert [record.result.job.agent for record in together] == [name, name, "constant"]
    for record in together[:2]:
        assert record.result.validation_loss < record.result.initial_validation_loss
        assert np.isfinite(record.result.test_loss)
    (alone,) = play(jobs[1:])
    assert alone.decisions == together[1].decisions
    assert alone.result.test_loss == together[1].result.test_loss


def test_schedule_free_is_evaluated_where_it_averages() -> None:
    """Its weights of evaluation are not those it trains at; what is validated are the former."""
    spec = env_spec(ENV)
    instance = spec.draw("train", 1, BUDGET)
    agent = catalog.make_agent("schedule_free")
    population = OptimizerPopulation(spec, lambda parameters, rate: agent.optimizer(parameters, "scratch", rate))
    population.reset({0: instance})
    population.step({0: spec.menu.index("keep")})
    run = population._own
    assert run is not None
    evaluated = run.rows[0].weights[: run.layout.size].clone()
    run._optimizer.train()
    trained = torch.cat([parameter.detach().flatten() for parameter in run._model.parameters()])
    run._optimizer.eval()
    assert not evaluated.allclose(trained)
    back = torch.cat([parameter.detach().flatten() for parameter in run._model.parameters()])
    assert torch.allclose(evaluated, back, atol=1e-5)


def test_a_package_that_is_not_there_is_named() -> None:
    agent = catalog.make_agent("prodigy")
    agent.package = "no_such_package"
    with pytest.raises(LlmoError, match=r"no_such_package.*llmo\[rivals\]"):
        agent.bind(env_spec(ENV).space)
