"""Several runs of an instance: what belongs together, what counts, and what population-based training copies."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from llmo import catalog
from llmo.errors import LlmoError
from llmo.evaluation.members import best_of_members, member_jobs, together
from llmo.evaluation.result import EpisodeRecord, Job, Result, tuned_job
from llmo.evaluation.rollout import chunks, play
from llmo.evaluation.scores import score
from llmo.mdp.population import Population
from llmo.mdp.spec import env_spec

ENV = "llmo/LanguageModel-v1"


def cheapest(count: int) -> list[int]:
    spec = env_spec(ENV)
    return sorted(range(64), key=lambda index: spec.draw("train", index, 1.0).budget)[:count]


def planted(job: Job, validation: float) -> Result:
    result = Result(job, "scratch", "group", 2 * validation, validation, 6.0, 10.0, 9.0, 0.0, 1.0, False, 0, 0.0, "sha")
    return dataclasses.replace(result, spent_flops=9.0)


def test_members_share_the_budget_and_stay_together() -> None:
    catalog.load("agents")
    jobs = [job for index in cheapest(3) for job in member_jobs(ENV, "train", index, "pbt")]
    assert len(jobs) == 12
    assert sum(job.budget for job in jobs) == pytest.approx(3)
    units = together([*jobs, tuned_job(ENV, "train", 0, "constant"), tuned_job(ENV, "train", 1, "constant")])
    assert [len(unit) for unit in units] == [4, 4, 4, 1, 1]
    for group in chunks(jobs, 6):
        indices = [job.index for job in group]
        assert all(indices.count(index) == 4 for index in indices)


def test_the_member_that_validates_best_counts_and_all_are_paid_for() -> None:
    jobs = member_jobs(ENV, "train", 3, "random_search_wall")
    results = [planted(job, loss) for job, loss in zip(jobs, (5, 4, 2.5, 3), strict=True)]
    alone = planted(tuned_job(ENV, "train", 3, "constant"), 4.0)
    same, best = best_of_members([*results, alone])
    assert (best.validation_loss, best.test_loss, best.spent_flops, best.wall_s) == (2.5, 5.0, 36.0, 4.0)
    assert (best.job.seed, best.job.budget) == (0, 1.0)
    assert same == alone
    with pytest.raises(LlmoError, match="members of random_search_wall on instance 3"):
        best_of_members(results[1:])


def test_members_begin_with_settings_of_their_own() -> None:
    (index,) = cheapest(1)
    records = play(member_jobs(ENV, "train", index, "random_search_wall"))
    assert len({record.decisions[0].learning_rate for record in records}) == 4


def test_the_worst_members_continue_from_the_best() -> None:
    """Weights of a copied member are its source's at the copy; what it has spent stays spent; the others go on."""
    spec = env_spec(ENV)
    (index,) = cheapest(1)
    population = Population(spec, 8)
    agent = catalog.make_agent("pbt")
    agent.bind(spec.space)
    agent.reset(list(range(8)))
    population.reset(dict.fromkeys(range(8), spec.draw("train", index, 0.6)))
    agent.attach(population, range(8))
    spent = []
    for step in range(2):
        if step == 1:
            losses = [population.episode(slot).history.last.validation_loss for slot in range(8)]
            before = [population.run_of(slot).rows[slot].weights.clone() for slot in range(8)]
            rates = [population.run_of(slot).relative_rate(slot) for slot in range(8)]
        observations = np.stack([population.observe(slot) for slot in range(8)])
        masks = np.stack([population.mask(slot) for slot in range(8)])
        actions = agent.act(observations, masks, np.full(8, step == 0))
        spent.append([population.run_of(slot).states[slot].spent for slot in range(8)])
        if step < 1:
            population.step(dict(enumerate(actions.tolist())))
    order = np.argsort(losses)
    now = [population.run_of(slot).rows[slot].weights for slot in range(8)]
    for good, bad in zip(order[:2], order[:-3:-1], strict=True):
        assert now[bad].equal(before[good])
        turned = population.run_of(bad).relative_rate(bad) / rates[good]
        assert turned == pytest.approx(1.5) or turned == pytest.approx(1 / 1.5)
    for slot in order[:-2]:
        assert now[slot].equal(before[slot])
    assert all(a <= b for earlier, later in pairwise(spent) for a, b in zip(earlier, later, strict=True))


def test_the_virtual_best_plays_35_different_schedules() -> None:
    (index,) = cheapest(1)
    jobs = [dataclasses.replace(job, budget=0.5) for job in member_jobs(ENV, "train", index, "virtual_best")]
    assert len(jobs) == 35
    assert len({tuple(move.learning_rate for move in record.decisions) for record in play(jobs)}) == 35


def test_who_spends_more_than_the_budget_is_no_rule() -> None:
    kinds = {"constant": "rule", "random_search": "rule", "random_search_wall": "search", "virtual_best": "search"}
    jobs = {name: member_jobs(ENV, "train", 3, name) for name in kinds}
    records = [EpisodeRecord((), planted(job, 4.0)) for each in jobs.values() for job in each]
    rows = score(records, "constant", "constant")["agents"]
    assert {name: row["kind"] for name, row in rows.items()} == kinds
    assert {name: row["flops"] for name, row in rows.items()} == {name: 9.0 * len(each) for name, each in jobs.items()}
