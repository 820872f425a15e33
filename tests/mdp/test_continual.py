"""Data that shift: what is validated, what is forgotten; that replay and anchors help where forgetting is planted."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from llmo.mdp.continual_instances import draw_continual_instance
from llmo.mdp.materials import Source
from llmo.mdp.population import Population
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import env_spec

SPEC = env_spec("llmo/Continual-v0")


def test_phases_have_domains_materials_and_held_out_text_of_their_own() -> None:
    for index in range(12):
        instance = draw_continual_instance("train", index)
        count = len(instance.phases)
        assert count in (2, 3) and len(set(instance.phases)) == count
        assert len(instance.sources) == 3 * count and len(instance.changes) == count - 1
        shares = [share for share, _ in instance.changes]
        assert shares == sorted(shares) and 0 < shares[0] and shares[-1] < 1
    problem = build_problem(instance)
    assert problem.task.phases == count
    assert len(problem.task.validation.inputs) == 30 and len(problem.task.test.inputs) == 120


def test_parts_share_no_seed_and_no_shape() -> None:
    drawn = {part: [draw_continual_instance(part, index) for index in range(40)] for part in ("train", "dev", "test")}
    seeds = {part: {instance.seed for instance in instances} for part, instances in drawn.items()}
    shapes = {part: {instance.shape for instance in instances} for part, instances in drawn.items()}
    for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not seeds[a] & seeds[b] and not shapes[a] & shapes[b]


@pytest.fixture(scope="module")
def forgetful() -> tuple[Population, dict[str, list[float]]]:
    """From a base of the first phase's kind of text to another, at a high rate: forgetting is planted."""
    torch.set_num_threads(1)
    found = next(
        instance
        for instance in (draw_continual_instance("train", index) for index in range(400))
        if len(instance.phases) == 2 and instance.shape.depth == 1 and not (instance.closed or instance.neutral)
    )
    domains = ("prose", "code")
    sources = tuple(Source("clean", domain, 40_000, 0.0) for domain in domains for _ in range(3))
    instance = replace(
        found, phases=domains, domain="prose", text_group="prose/0", sources=sources, teacher="", start="scratch",
        base="", damage=0.0, weight_scale=1.0, rate_factor=2.0, interval=20, steps=16, changes=((0.5, (3, 4, 5)),),
        budget=found.budget * 20 / found.interval * 16 / found.steps,
    )  # fmt: skip
    population = Population(SPEC, 1, executor="batched")
    return population, {name: play(population, instance, name) for name in ("keep", "replay_more", "anchor_set")}


def play(population: Population, instance, remedy: str) -> list[float]:  # type: ignore[no-untyped-def]
    """What is forgotten after each step; the remedy is taken once, when the second phase begins."""
    population.reset({0: instance})
    forgotten, taken = [], 0
    while not population.episode(0).ended:
        state = population.run_of(0).states[0]
        due = state.phase == 1 and taken < (2 if remedy == "replay_more" else 1)
        action = remedy if due else "keep"
        taken += due
        forgotten.append(population.step({0: SPEC.menu.index(action)})[0].measurement.forgotten)
    return forgotten


def test_nothing_is_forgotten_before_there_is_something_older(forgetful) -> None:  # type: ignore[no-untyped-def]
    _, played = forgetful
    assert math.isnan(played["keep"][0]) and played["keep"][-1] > 0.05


def test_replay_halves_planted_forgetting(forgetful) -> None:  # type: ignore[no-untyped-def]
    _, played = forgetful
    assert played["replay_more"][-1] < 0.5 * played["keep"][-1]


def test_an_anchor_lessens_planted_forgetting(forgetful) -> None:  # type: ignore[no-untyped-def]
    _, played = forgetful
    assert played["anchor_set"][-1] < 0.8 * played["keep"][-1]


def test_a_validation_loss_is_the_mean_over_phases(forgetful) -> None:  # type: ignore[no-untyped-def]
    population, _ = forgetful
    state = population.run_of(0).states[0]
    losses = [loss for loss, _ in state.phase_losses]
    assert state.loss == pytest.approx(np.mean(losses), rel=1e-6)
    task, run = state.problem.task, population.run_of(0)
    for loss, ids, labels in zip(losses, task.validation.inputs.chunk(2), task.validation.labels.chunk(2)):
        logits = run.executor.logits(run.effective([0]), ids[None], 32)
        assert task.score(logits, labels[None]).item() == pytest.approx(loss, rel=1e-5)
