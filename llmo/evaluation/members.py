"""Agents that play several runs of an instance: their jobs belong together, and their best run is their result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmo import catalog
from llmo.agent import Agent
from llmo.errors import LlmoError
from llmo.evaluation.result import Job, Result, tuned_job


def member_jobs(env: str, split: str, index: int, agent: str, seed: int = 0, budget: float = 1.0) -> list[Job]:
    """The jobs of an agent on an instance, one a member, each with its share of the budget.

    Args:
        env: Registered name of the environment.
        split: ``train``, ``dev`` or ``test``.
        index: Of the instance.
        agent: Registered name.
        seed: Of what is random in it.
        budget: Multiple of the instance's own, for all members of an agent whose shares add up to one.
    """
    kind = _kind(agent)
    first, share = seed * kind.members, budget * kind.share
    return [tuned_job(env, split, index, agent, first + member, share) for member in range(kind.members)]


def together(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in the smallest groups that have to be played together, in the order of their first."""
    groups: dict[object, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_unit(job, _kind(job.agent).members), []).append(job)
    return list(groups.values())


def best_of_members(results: Sequence[Result]) -> list[Result]:
    """Results with one for all members of a run: that of the lowest validation loss, with what all of them cost.

    Raises:
        LlmoError: A member is missing.
    """
    found: list[Result] = []
    groups: dict[object, list[Result]] = {}
    for result in results:
        members = _kind(result.job.agent).members
        if members == 1:
            found.append(result)
        else:
            groups.setdefault(_unit(result.job, members), []).append(result)
    return found + [_best(group) for group in groups.values()]


def _best(group: Sequence[Result]) -> Result:
    best = min(group, key=lambda result: result.validation_loss)
    kind, job = _kind(best.job.agent), best.job
    if len(group) != kind.members:
        raise LlmoError(f"members of {job.agent} on instance {job.index}", len(group), f"{kind.members} of them")
    return replace(
        best,
        job=replace(job, seed=job.seed // kind.members, budget=job.budget / kind.share),
        budget_flops=sum(result.budget_flops for result in group),
        spent_flops=sum(result.spent_flops for result in group),
        wall_s=sum(result.wall_s for result in group),
    )


def _unit(job: Job, members: int) -> object:
    """Equal for the jobs of one run of an agent with several members, and for no others."""
    return job if members == 1 else replace(job, seed=job.seed // members)


def _kind(agent: str) -> type[Agent]:
    """The agent's class; one whose plug-in is not loaded plays for itself."""
    try:
        kind: type[Agent] = catalog.get("agents", agent)
    except LlmoError:
        return Agent
    return kind
