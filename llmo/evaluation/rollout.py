"""Plays episodes: agents on instances, many at once in one population, whoever the agents are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from llmo import catalog
from llmo.agent import Agent, OptimizerAgent, Schedule
from llmo.diagnostics.causes import diagnose
from llmo.evaluation.members import together
from llmo.evaluation.result import Decision, EpisodeRecord, Job, Result
from llmo.mdp.population import Population, Step
from llmo.mdp.spec import EnvSpec, env_spec
from llmo.tasks.own_text import text_sha256
from llmo.tasks.text import PARTS


def chunks(jobs: Sequence[Job], replicas: int) -> list[list[Job]]:
    """Jobs in groups of at most `replicas` that train in one program for about equally long, the costly first.

    What trains in one program has one shape, and one frozen base where there is one. Who is in a group changes how fast
    it is, not what comes out. Members of one population stay together.
    """

    def cost(unit: Sequence[Job]) -> tuple[tuple[str, str, str, str], int, float]:
        job = unit[0]
        spec = env_spec(job.env)
        instance = spec.draw(job.split, job.index, job.budget)
        program = job.env, job.executor, str(instance.shape), spec.frozen_base(instance)
        return program, instance.interval, instance.budget

    groups: list[list[Job]] = []
    last: tuple[str, ...] = ()
    costs = [(cost(unit), unit) for unit in together(jobs)]
    for (program, *_), unit in sorted(costs, key=lambda pair: pair[0], reverse=True):
        if program == last and len(groups[-1]) + len(unit) <= replicas:
            groups[-1].extend(unit)
        else:
            groups.append(unit)
        last = program
    return groups


def play(
    jobs: Sequence[Job],
    on_step: Callable[[], None] | None = None,
    player: Agent | None = None,
    population: Population | None = None,
) -> list[EpisodeRecord]:
    """Play jobs of one environment together, to their ends.

    Args:
        jobs: At least one; all of the same environment and executor.
        on_step: Called after each environment step of the population.
        player: Plays all the jobs, instead of their agents.
        population: Where they are played, with a slot for each; by default a new one.

    Returns:
        Their records, in order.
    """
    alone = [] if player or population else [job for job in jobs if _brings_optimizer(job)]
    if alone:
        others = [job for job in jobs if not _brings_optimizer(job)]
        records = [_play_optimizer(job, on_step) for job in alone] + (play(others, on_step) if others else [])
        played = {record.result.job: record for record in records}
        return [played[job] for job in jobs]
    started = time.perf_counter()
    spec = env_spec(jobs[0].env)
    population = population or Population(spec, len(jobs), executor=jobs[0].executor)
    players = list(_players(jobs, spec, player))
    _begin(jobs, players, population)
    decisions: list[list[Decision]] = [[] for _ in jobs]
    first = True
    while True:
        actions, reasons = _choose(players, population, first)
        if not actions:
            break
        first = False
        causes = {slot: diagnose(population.observe(slot)) for slot in actions}
        for slot, taken in population.step(actions).items():
            chosen = spec.menu[actions[slot]]
            decisions[slot].append(decision(len(decisions[slot]), chosen, reasons[slot], causes[slot], taken))
        if on_step is not None:
            on_step()
    searched: dict[int, float] = {}
    for agent, slots in players:
        searched |= dict(zip(slots, agent.search_flops if agent.search else [0.0] * len(slots), strict=True))
    used = [population.run_of(slot).states[slot].spent + searched[slot] for slot in range(len(jobs))]
    each = (time.perf_counter() - started) / sum(used)
    return [
        EpisodeRecord(
            tuple(decisions[slot]), _result(job, population, slot, decisions[slot], searched[slot], each * used[slot])
        )
        for slot, job in enumerate(jobs)
    ]


def _brings_optimizer(job: Job) -> bool:
    return issubclass(catalog.get("agents", job.agent), OptimizerAgent)


def _play_optimizer(job: Job, on_step: Callable[[], None] | None) -> EpisodeRecord:
    """A job of an agent that brings an optimizer of its own, which trains one run by itself."""
    from llmo.evaluation.own_optimizer import OptimizerPopulation

    agent, spec = catalog.make_agent(job.agent, **dict(job.parameters)), env_spec(job.env)
    start = spec.draw(job.split, job.index, job.budget).start
    population = OptimizerPopulation(spec, lambda parameters, rate: agent.optimizer(parameters, start, rate))
    return play([job], on_step, population=population)[0]


def _begin(jobs: Sequence[Job], players: Sequence[tuple[Agent, list[int]]], population: Population) -> None:
    """Put every job's instance into its slot, with the schedule of the rule that plays it."""
    instances = [population.spec.draw(job.split, job.index, job.budget) for job in jobs]
    schedules: dict[int, Schedule | None] = {}
    for agent, slots in players:
        schedules |= dict(zip(slots, agent.schedules([instances[slot].start for slot in slots]), strict=True))
    population.reset(dict(enumerate(instances)), schedules)
    for agent, slots in players:
        agent.attach(population, slots)


def _players(jobs: Sequence[Job], spec: EnvSpec, player: Agent | None) -> Iterator[tuple[Agent, list[int]]]:
    """One agent for all the jobs that have the same one, with their slots; or the given player for all jobs."""
    groups: dict[str, list[int]] = {}
    for slot, job in enumerate(jobs):
        groups.setdefault("" if player else repr((job.agent, job.parameters)), []).append(slot)
    for slots in groups.values():
        job = jobs[slots[0]]
        agent: Agent = player or catalog.make_agent(job.agent, **dict(job.parameters))
        agent.bind(spec.space)
        agent.reset([agent_seed(jobs[slot]) for slot in slots])
        yield agent, slots


def agent_seed(job: Job) -> int:
    """Seed of what is random in an agent in one episode."""
    entropy = [job.seed, PARTS.index(job.split), job.index]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _choose(
    players: Sequence[tuple[Agent, list[int]]], population: Population, first: bool
) -> tuple[dict[int, int], dict[int, str]]:
    """Actions and reasons by slot, of the episodes that go on; agents still see those that are over."""
    actions, reasons = {}, {}
    for agent, slots in players:
        going = [slot for slot in slots if not population.episode(slot).ended]
        if not going:
            continue
        observations = np.stack([population.observe(slot) for slot in slots])
        masks = np.stack([population.mask(slot) for slot in slots])
        chosen = agent.act(observations, masks, np.full(len(slots), first))
        why = agent.explain() or [""] * len(slots)
        for place, slot in enumerate(slots):
            if slot in going:
                actions[slot], reasons[slot] = int(chosen[place]), why[place]
    return actions, reasons


def decision(number: int, chosen: str, why: str, cause: tuple[str, str], step: Step) -> Decision:
    """The record of a step.

    Args:
        number: Of the step, from 0.
        chosen: Name of the action that was chosen.
        why: The agent's reason.
        cause: Which bottleneck was diagnosed before, with its evidence.
        step: What came of it.
    """
    after = step.measurement
    return Decision(
        step=number,
        action=step.action,
        chosen=chosen,
        why=why,
        cause=cause[0],
        evidence=cause[1],
        spent=after.spent,
        cost=after.cost,
        optimizer_steps=after.optimizer_steps,
        learning_rate=after.learning_rate,
        train_loss=after.train_loss,
        validation_loss=after.validation_loss,
        best_validation_loss=after.best_validation_loss,
        mixture=after.mixture,
        reward=step.reward,
        epsilon=None if math.isnan(after.epsilon) else after.epsilon,
        delta=None if math.isnan(after.delta) else after.delta,
    )


def _result(
    job: Job, population: Population, slot: int, decisions: Sequence[Decision], search_flops: float, wall_s: float
) -> Result:
    episode, state = population.episode(slot), population.run_of(slot).states[slot]
    measurements = episode.history.measurements
    return Result(
        job=job,
        start=episode.instance.start,
        text_group=episode.instance.text_group,
        test_loss=population.test_loss(slot),
        validation_loss=measurements[-1].best_validation_loss,
        initial_validation_loss=measurements[0].validation_loss,
        budget_flops=episode.instance.budget,
        spent_flops=state.spent,
        search_flops=search_flops,
        wall_s=wall_s,
        diverged=state.diverged,
        masked=episode.masked,
        total_reward=math.fsum(decision.reward for decision in decisions),
        corpus_sha256=text_sha256(population.spec.data),
    )
