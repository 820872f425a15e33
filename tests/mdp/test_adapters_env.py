"""llmo/Adapters-v0: what its instances draw, what they become, and runs that share one frozen base."""

import dataclasses
import itertools
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from llmo import catalog
from llmo.engine.layout import FactorLayout
from llmo.engine.models import load_pretrained
from llmo.engine.soft_targets import teacher_logits
from llmo.errors import LlmoError
from llmo.evaluation.compare import difference
from llmo.evaluation.episodes import episode_file
from llmo.evaluation.replay import replay
from llmo.evaluation.result import Job
from llmo.evaluation.rollout import chunks, play
from llmo.mdp.adapter_instances import RANKS, TARGET_MODULES, draw_adapter_instance
from llmo.mdp.instances import Instance, draw_instance
from llmo.mdp.population import Population, Step
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import EnvSpec, env_spec
from llmo.tasks.text import PARTS

SCALE = 0.25
MOVES = (
    "rate_default",
    "source_tracking",
    "adapter_rank_up",
    "regularise_more",
    "distil_averaged",
    "augment_noise",
    "load_averaged",
)


@pytest.fixture(scope="module")
def spec() -> EnvSpec:
    torch.set_num_threads(1)
    return env_spec("llmo/Adapters-v0")


@cache
def drawn(part: str) -> list[Instance]:
    return [draw_adapter_instance(part, index) for index in range(300)]


def cheap(part: str = "train", **wanted: object) -> Instance:
    """The cheapest instance that is whole and has what is wanted."""
    found = [i for i in drawn(part) if not (i.closed or i.neutral)]
    found = [i for i in found if all(getattr(i, name) == value for name, value in wanted.items())]
    return min(found, key=lambda instance: instance.budget)


def train(population: Population, slot: int, beside: tuple[int, ...] = ()) -> list[Step]:
    """An episode of the first few moves in turn, as far as they are allowed; the slots beside it only keep."""
    steps: list[Step] = []
    keep = population.spec.menu.index("keep")
    while not population.episode(slot).ended:
        move = population.spec.menu.index(MOVES[len(steps) % len(MOVES)])
        actions = {other: keep for other in beside if not population.episode(other).ended}
        steps.append(population.step(actions | {slot: move})[slot])
    return steps


def test_an_index_is_one_instance_and_one_problem() -> None:
    for part in PARTS:
        assert draw_adapter_instance(part, 7) == draw_adapter_instance(part, 7)
        one, other = build_problem(draw_adapter_instance(part, 7)), build_problem(draw_adapter_instance(part, 7))
        for field in dataclasses.fields(one):
            if field.name not in ("task", "weights", "teacher"):
                assert getattr(one, field.name) == getattr(other, field.name)
        assert one.weights.equal(other.weights)
        assert one.task.validation.inputs.equal(other.task.validation.inputs)
        assert [a.tobytes() for a in one.task.sources] == [b.tobytes() for b in other.task.sources]


def test_a_part_has_one_base_and_shares_neither_it_nor_a_seed(spec: EnvSpec) -> None:
    bases = {part: {spec.frozen_base(instance) for instance in drawn(part)} for part in PARTS}
    assert all(len(found) == 1 for found in bases.values())
    assert len(set.union(*bases.values())) == len({str(drawn(part)[0].shape) for part in PARTS}) == len(PARTS)
    seeds = {part: {instance.seed for instance in drawn(part)} for part in PARTS}
    assert all(len(seeds[part]) == 300 for part in PARTS)
    assert all(seed % 3 == PARTS.index(part) and seed < 2**63 for part in PARTS for seed in seeds[part])
    assert not seeds["train"] & {draw_instance("train", index).seed for index in range(300)}


def test_parts_share_no_held_out_text() -> None:
    rows: dict[str, set[bytes]] = {part: set() for part in PARTS}
    for part in PARTS:
        for task in (build_problem(instance).task for instance in drawn(part)[:30]):
            for split in (task.validation, task.test):
                windows = np.c_[split.inputs.numpy(), split.labels.numpy()[:, -1]]
                rows[part] |= {window.tobytes() for window in windows}
    assert min(map(len, rows.values())) > 500
    assert sum(map(len, rows.values())) == len(set.union(*rows.values()))


@pytest.mark.parametrize("part", PARTS)
def test_what_is_drawn_spans_its_ranges(part: str) -> None:
    found = drawn(part)
    adapters = {(instance.rank, instance.target_modules) for instance in found}
    assert adapters == set(itertools.product(RANKS, TARGET_MODULES))
    assert all(instance.domain != instance.base and instance.start == "pretrained" for instance in found)
    assert all(instance.damage == 0 for instance in found)
    rates = [math.log10(instance.rate_factor) for instance in found]
    assert -1.5 <= min(rates) < -1.45 and 1.45 < max(rates) <= 1.5
    steps = [instance.steps * instance.interval for instance in found]
    assert max(steps) / min(steps) > 16
    budgets = [instance.budget for instance in found]
    assert 14 < max(budgets) / min(budgets) < 24
    assert {len(instance.changes) for instance in found} == {0, 1, 2}
    kinds = {source.kind for instance in found for source in instance.sources}
    assert kinds == {"clean", "noisy", "off_domain", "both"}
    assert {instance.teacher.rpartition("-")[2] for instance in found} == {"", "good", "early"}
    assert any(instance.closed or instance.neutral for instance in found) == (part == "train")


def test_the_budget_scale_changes_the_budget_alone() -> None:
    whole, half = draw_adapter_instance("test", 3), draw_adapter_instance("test", 3, 0.5)
    assert half.budget == pytest.approx(whole.budget / 2)
    assert dataclasses.replace(half, budget=whole.budget) == whole
    with pytest.raises(LlmoError, match="did you mean 'test'"):
        draw_adapter_instance("tset", 0)


@pytest.mark.parametrize("targets", TARGET_MODULES)
def test_training_starts_from_the_base_with_factors_where_they_belong(targets: tuple[str, ...]) -> None:
    instance = cheap(target_modules=targets, rank=2)
    problem = build_problem(instance)
    base = load_pretrained(instance.base_model)
    layout = FactorLayout(base)
    assert len(problem.weights) == layout.size
    for linear in layout.factors:
        a, b = linear.factors(problem.weights[None])
        adapted = not targets or linear.name.endswith(targets)
        assert a[0, :2].ne(0).all() == adapted and not a[0, 2:].any() and not b.any()
    population = Population(env_spec("llmo/Adapters-v0"))
    population.reset({0: instance})
    validation = problem.task.validation
    with torch.no_grad():
        logits = teacher_logits(base, validation.inputs, validation.inputs.shape[-1])
    expected = problem.task.score(logits[None], validation.labels[None]).item()
    assert population.episode(0).history.last.validation_loss == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("targets", TARGET_MODULES)
def test_the_budget_pays_the_steps(spec: EnvSpec, targets: tuple[str, ...]) -> None:
    """An episode that only keeps has exactly the steps that were drawn; so the engine's costs are the instance's."""
    instance = cheap(target_modules=targets)
    population = Population(spec)
    population.reset({0: instance})
    steps = 0
    while not population.episode(0).ended:
        steps += population.step({0: spec.menu.index("keep")})[0].measurement.optimizer_steps == instance.interval
    assert steps == instance.steps
    assert population.episode(0).history.last.spent == pytest.approx(1, abs=1e-6)


def test_a_larger_rank_costs_more_and_changes_nothing_at_first(spec: EnvSpec) -> None:
    population = Population(spec)
    population.reset({0: cheap(rank=2, target_modules=TARGET_MODULES[2])})
    keep, grow = spec.menu.index("keep"), spec.menu.index("adapter_rank_up")
    assert not any(name in spec.menu for name in ("adapter_full", "adapter_lora", "adapter_merge"))
    history = population.episode(0).history
    assert (history.adapter, history.rank) == ("lora", 2)
    population.step({0: keep})
    run = population.run_of(0)
    loss, cost = run.states[0].loss, run.step_cost(0)
    spec.actions[grow].apply(run, 0)
    assert run.evaluate([0])[0].validation_loss == loss
    assert run.step_cost(0) > cost
    ranks = []
    while population.mask(0)[grow]:
        population.step({0: grow})
        ranks.append(history.rank)
    assert ranks == [8]
    for linear in run.layout.factors:
        assert run.states[0].problem.target_modules == TARGET_MODULES[2]
        assert linear.factors(run.rows[0].weights[None])[0].any() == linear.name.endswith(TARGET_MODULES[2])


def test_executors_agree_within_rounding_after_an_episode(spec: EnvSpec) -> None:
    instance = draw_adapter_instance("dev", cheap("dev", rank=4).index, 0.6)
    played = []
    for executor in ("single", "batched"):
        population = Population(spec, executor=executor)
        population.reset({0: instance})
        losses = [step.measurement.validation_loss for step in train(population, 0)]
        played.append([*losses, population.test_loss(0)])
    assert len(played[0]) > len(MOVES)  # The last is the test loss.
    assert played[0] == pytest.approx(played[1], rel=1e-4)


@pytest.mark.parametrize(("replicas", "place"), [(2, 0), (3, 2), (7, 4)])
def test_an_episode_is_the_same_at_every_place(spec: EnvSpec, replicas: int, place: int) -> None:
    """Bit for bit, whatever the others are and do: the base runs once on the sequences of all of them."""
    instance = draw_adapter_instance("train", cheap(rank=2).index, 0.5)
    small = sorted(drawn("train"), key=lambda other: other.interval)
    alone, population = Population(spec, executor="batched"), Population(spec, replicas, executor="batched")
    others = tuple(other for other in range(replicas) if other != place)
    alone.reset({0: instance})
    population.reset({place: instance} | {other: small[40 + other] for other in others})
    assert difference(train(alone, 0), train(population, place, others)) == ""
    assert difference(alone.snapshot(0).row.tensors, population.snapshot(place).row.tensors) == ""
    assert alone.test_loss(0) == population.test_loss(place)


@pytest.mark.parametrize("executor", ["single", "batched"])
def test_a_snapshot_goes_on_bit_for_bit(spec: EnvSpec, executor: str) -> None:
    instance = draw_adapter_instance("train", cheap(rank=2).index, SCALE)
    one, other = Population(spec, 2, executor=executor), Population(spec, 3, executor=executor)
    one.reset({1: instance})
    moment = one.snapshot(1)
    first = train(one, 1)
    one.restore(1, moment)
    assert difference(moment, one.snapshot(1)) == ""
    other.restore(2, moment)
    assert difference(first, train(one, 1)) == ""
    assert difference(first, train(other, 2)) == ""


def two_bases() -> EnvSpec:
    """Two bases of one shape."""

    def draw(part: str, index: int, budget_scale: float) -> Instance:
        base = ("prose", "docstrings")[index % 2]
        return dataclasses.replace(draw_adapter_instance(part, index, budget_scale), base=base)

    return EnvSpec("me/TwoBases-v0", ("keep", "rate_x2"), draw, build_problem, lambda instance: instance.base_model)


def test_episodes_of_one_shape_and_two_bases_are_grouped_by_base(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When they are played, whoever plays beside them, and when they are replayed."""
    catalog.load("envs")
    monkeypatch.setitem(catalog.KINDS["envs"]._entries, "me/TwoBases-v0", two_bases)
    interval = {index: draw_adapter_instance("dev", index).interval for index in range(40)}
    small = [index for odd in (0, 1) for index in sorted(range(odd, 40, 2), key=interval.__getitem__)[:2]]
    jobs = [Job("me/TwoBases-v0", "dev", index, "random", budget=0.15) for index in small]
    groups = chunks(jobs, 8)
    assert sorted(sorted({job.index % 2 for job in group}) for group in groups) == [[0], [1]]
    for job, record in zip(jobs, play(jobs), strict=True):
        record.save(tmp_path / episode_file(job))
    assert sorted(replay(str(tmp_path))) == sorted(f"ok   random {job.index}" for job in jobs)
    alone = [play(group) for group in groups]
    together = {record.result.job: record.result.test_loss for record in play(jobs)}
    assert all(together[record.result.job] == record.result.test_loss for records in alone for record in records)
