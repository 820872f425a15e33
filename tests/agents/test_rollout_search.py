import dataclasses
import re

import numpy as np
import pytest

from llmo import catalog
from llmo.evaluation.compare import difference
from llmo.evaluation.result import EpisodeRecord, Job
from llmo.evaluation.rollout import play
from llmo.mdp.population import Population, Snapshot
from llmo.mdp.spec import env_spec

ENV = "llmo/LanguageModel-v0"
TOO_HIGH = 29
"""A train instance from scratch whose drawn rate is twenty times the default."""
BUDGET = 0.375


def numbers(record: EpisodeRecord) -> str:
    return repr(EpisodeRecord(record.decisions, dataclasses.replace(record.result, wall_s=0.0)))


@pytest.fixture(scope="module")
def played() -> dict[str, EpisodeRecord]:
    names = ("keep", "search_1", "search_3", "search_full")
    return {r.result.job.agent: r for r in play([Job(ENV, "train", TOO_HIGH, name, budget=BUDGET) for name in names])}


@pytest.mark.parametrize("name", ["search_1", "search_3", "search_full"])
def test_search_repairs_a_rate_that_is_far_too_high(name: str, played: dict[str, EpisodeRecord]) -> None:
    assert env_spec(ENV).draw("train", TOO_HIGH, 1.0).rate_factor > 10
    found, kept = played[name].result, played["keep"].result
    assert found.validation_loss < kept.validation_loss
    assert found.search_flops > 10 * found.spent_flops
    assert found.masked == 0
    assert any(decision.action.startswith(("rate_", "rollback")) for decision in played[name].decisions)


def test_looking_further_costs_more(played: dict[str, EpisodeRecord]) -> None:
    flops = [played[name].result.search_flops for name in ("keep", "search_1", "search_3", "search_full")]
    assert flops[0] == 0
    assert flops == sorted(flops)
    assert flops[1] < flops[2]


def test_what_is_executed_sees_other_batches_than_the_search(played: dict[str, EpisodeRecord]) -> None:
    record = played["search_1"]
    promised = [float(re.findall(r"loss (\d+\.\d+)", decision.why)[0]) for decision in record.decisions]
    got = [round(decision.best_validation_loss, 3) for decision in record.decisions]
    # A step that improves nothing leaves the best as it was, on whatever batches.
    assert sum(a != b for a, b in zip(promised, got)) > len(got) / 2 and len(got) >= 3


def test_searching_alone_gives_the_same(played: dict[str, EpisodeRecord]) -> None:
    (alone,) = play([Job(ENV, "train", TOO_HIGH, "search_1", budget=BUDGET)])
    assert numbers(alone) == numbers(played["search_1"])


def same(a: Snapshot, b: Snapshot) -> bool:
    numbers = repr(a.episode) == repr(b.episode) and repr(a.row.state) == repr(b.row.state)
    return numbers and not difference(a.row.tensors, b.row.tensors)


def test_searching_leaves_the_run_as_it_was() -> None:
    spec = env_spec(ENV)
    population = Population(spec, 2, executor="batched")
    population.reset({slot: spec.draw("train", index, BUDGET) for slot, index in enumerate((TOO_HIGH, 33))})
    agent = catalog.make_agent("search_3")
    agent.bind(spec.space)
    agent.reset([1, 2])
    agent.attach(population, [0, 1])
    before = [population.snapshot(slot) for slot in (0, 1)]
    masks = np.stack([population.mask(slot) for slot in (0, 1)])
    actions = agent.act(np.stack([population.observe(slot) for slot in (0, 1)]), masks, np.full(2, True))
    assert all(same(population.snapshot(slot), before[slot]) for slot in (0, 1))
    assert all(masks[slot, actions[slot]] for slot in (0, 1))
    population.step({0: spec.space.action("rate_x0.2")})
    assert not same(population.snapshot(0), before[0])
