"""Re-executes recorded episodes and says whether every number comes out the same.

The recorded actions are taken again; nobody chooses anew. Only agents that do more than to choose actions play
themselves, such as rules that set the rate by a schedule. What a search agent saw when it looked ahead is not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmo import catalog
from llmo.agent import Agent
from llmo.errors import LlmoError
from llmo.evaluation.compare import difference
from llmo.evaluation.members import together
from llmo.evaluation.result import Decision, EpisodeRecord
from llmo.evaluation.rollout import play
from llmo.mdp.spec import env_spec

TOGETHER = 32
"""Episodes that are re-executed in one population; how many does not change what comes out."""


class Recorded(Agent):
    """Takes the actions that were recorded, with the reasons that were given for them.

    Args:
        records: One a run.
    """

    def __init__(self, records: Sequence[EpisodeRecord]) -> None:
        self.records = records

    def reset(self, seeds: Sequence[int]) -> None:
        """See `Agent.reset`."""
        self._step = -1

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`; `keep` where the record has ended."""
        self._step += 1
        return np.array([self.space.action(move.chosen if move else "keep") for move in self._moves()])

    def explain(self) -> list[str]:
        """See `Agent.explain`."""
        return [move.why if move else "" for move in self._moves()]

    def _moves(self) -> list[Decision | None]:
        """What was recorded of this step, where anything was."""
        return [dict(enumerate(record.decisions)).get(self._step) for record in self.records]


@dataclass(frozen=True)
class Episode:
    """One recorded episode and how it is re-executed.

    Attributes:
        path: Its file.
        record: What it holds.
        itself: Whether the agent plays again: one that does more than to choose actions.
        shape: Shape of its model, in words.
        base: Name of the frozen model that it shares with others; empty where it has weights of its own.
    """

    path: Path
    record: EpisodeRecord
    itself: bool
    shape: str
    base: str


def replay(folder: str) -> list[str]:
    """Re-execute every episode below a folder.

    Args:
        folder: What `llmo benchmark` or `llmo play` wrote.

    Returns:
        A line for each episode file: ``ok   AGENT INDEX``, or one that begins with ``FAIL`` and names the first number
        that differs.

    Raises:
        LlmoError: There is no episode below the folder.
    """
    episodes_only = Path(folder) / "episodes"
    paths = sorted((episodes_only if episodes_only.is_dir() else Path(folder)).rglob("*.jsonl"))
    if not paths:
        raise LlmoError("folder", folder, "one that `llmo benchmark` or `llmo play` wrote episodes to")
    lines: dict[Path, str] = {}
    episodes = []
    for path in paths:
        try:
            episodes.append(_read(path))
        except LlmoError as error:
            lines[path] = f"FAIL {path.relative_to(folder)}: {error}"
    for group in _groups(episodes):
        records = [episode.record for episode in group]
        jobs = [record.result.job for record in records]
        played = play(jobs) if group[0].itself else play(jobs, player=Recorded(records))
        for episode, again in zip(group, played, strict=True):
            lines[episode.path] = _verdict(episode.record, again)
    return [lines[path] for path in paths]


def _read(path: Path) -> Episode:
    """An episode that can be re-executed: this installation has its environment, its actions and its agent.

    Raises:
        LlmoError: It cannot.
    """
    record = EpisodeRecord.load(path)
    job = record.result.job
    spec = env_spec(job.env)
    for decision in record.decisions:
        spec.space.action(decision.chosen)
    agent: Agent = catalog.make_agent(job.agent, **dict(job.parameters))
    instance = spec.draw(job.split, job.index, job.budget)
    return Episode(path, record, not agent.menu_alone, str(instance.shape), spec.frozen_base(instance))


def _groups(episodes: Sequence[Episode]) -> Iterator[list[Episode]]:
    """Episodes that are re-executed together: of one environment, executor, shape and frozen base.

    Members of one population lie beside each other; the same population may lie in another folder again.
    """

    def key(episode: Episode) -> tuple[str, str, bool, str, str, str]:
        job = episode.record.result.job
        folder = str(episode.path.parents[1]) if episode.itself else ""
        return job.env, job.executor, episode.itself, episode.shape, episode.base, folder

    for (_, executor, *_), group in groupby(sorted(episodes, key=key), key):
        most, alike = 1 if executor == "single" else TOGETHER, list[Episode]()
        for unit in _units(list(group)):
            if alike and len(alike) + len(unit) > most:
                yield alike
                alike = []
            alike += unit
        yield alike


def _units(episodes: Sequence[Episode]) -> list[list[Episode]]:
    """Episodes with those of the same population."""
    if not episodes[0].itself:
        return [[episode] for episode in episodes]
    by_job = {episode.record.result.job: episode for episode in episodes}
    return [[by_job[job] for job in unit] for unit in together(list(by_job))]


def _verdict(record: EpisodeRecord, again: EpisodeRecord) -> str:
    """The line of one episode; wall time and what a search looked at are not compared."""
    job = record.result.job
    for before, now in zip(record.decisions, again.decisions):
        if found := difference(before, now):
            return f"FAIL {job.agent} {job.index} step {before.step}, {found}"
    result = replace(again.result, wall_s=record.result.wall_s, search_flops=record.result.search_flops)
    found = difference(len(record.decisions), len(again.decisions), "steps") or difference(record.result, result)
    return f"FAIL {job.agent} {job.index} {found}" if found else f"ok   {job.agent} {job.index}"
