"""What one scored episode left behind: the unit that every table, plot and replay is made from.

An episode is one JSONL file: a line for each decision, then the result. It is written as a whole when it is over.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmo import catalog
from llmo.atomic import write_text_atomic
from llmo.catalog.tuned import tuned_parameters
from llmo.errors import LlmoError
from llmo.policy_file import policy_sha256


@dataclass(frozen=True)
class Job:
    """One episode to play.

    Attributes:
        env: Registered name of the environment.
        split: Instance part: ``train``, ``dev`` or ``test``.
        index: Index of the instance in its part.
        agent: Registered name of the agent.
        parameters: Its parameters by name, sorted; what is left out has its tuned value.
        seed: Seed of what is random in the agent.
        budget: Multiple of the instance's own budget.
        executor: ``single``, ``batched`` or ``compiled``.
        policy_sha256: Of the weights that a learned agent plays; empty for all others.
    """

    env: str
    split: str
    index: int
    agent: str
    parameters: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    budget: float = 1.0
    executor: str = "batched"
    policy_sha256: str = ""


def tuned_job(env: str, split: str, index: int, agent: str, seed: int = 0, budget: float = 1.0) -> Job:
    """A job with the agent's tuned values spelled out, so that its file tells what was played."""
    values = tuned_parameters(catalog.get("agents", agent).tuned_as or agent, env)
    return Job(env, split, index, agent, tuple(sorted(values.items())), seed, budget)


def policy_job(
    env: str, split: str, index: int, agent: str, policy: str = "", seed: int = 0, budget: float = 1.0
) -> Job:
    """A job for a learned agent, with the weights that it plays: of a folder, or else those that come with it.

    Raises:
        LlmoError: There is no policy in the folder.
    """
    parameters = (("policy", policy),) if policy else ()
    return Job(env, split, index, agent, parameters, seed, budget, policy_sha256=policy_sha256(policy or _own(agent)))


def _own(agent: str) -> Path:
    """Folder of the policy that comes with an agent.

    Raises:
        LlmoError: None does.
    """
    folder: Path | None = catalog.get("agents", agent).shipped
    if folder is None:
        raise LlmoError(f"policy of {agent}", "", "a folder that `llmo train` wrote, given by --policy")
    return folder


@dataclass(frozen=True)
class Decision:
    """One environment step: what was measured, why what was chosen, what it cost and what it gained.

    Attributes:
        step: Its number, from 0.
        action: Name of the action that was taken.
        chosen: Name of the action that was chosen; differs where that one was masked.
        why: The agent's reason.
        cause: Which bottleneck was diagnosed before the step.
        evidence: The numbers behind that.
        spent: Share of the budget spent after the step.
        cost: FLOPs of the step.
        optimizer_steps: Optimizer steps in it.
        learning_rate: Rate of the last of them.
        train_loss: Mean training loss, nats per token.
        validation_loss: Validation loss after the step, nats per token.
        best_validation_loss: The lowest so far.
        mixture: Sampling weights of the sources after the step.
        reward: The step's reward.
        epsilon: Epsilon of differential privacy that is spent after the step; None where training is not private.
        delta: The chance that this bound does not hold; None where training is not private.
    """

    step: int
    action: str
    chosen: str
    why: str
    cause: str
    evidence: str
    spent: float
    cost: float
    optimizer_steps: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    best_validation_loss: float
    mixture: tuple[float, ...]
    reward: float
    epsilon: float | None = None
    delta: float | None = None


@dataclass(frozen=True)
class Result:
    """One agent on one instance.

    Attributes:
        job: What was played.
        start: ``scratch`` or ``pretrained``.
        text_group: Name of the instance's text group; results of one group are not independent.
        test_loss: Mean cross-entropy of the delivered weights on the test split, nats per token.
        validation_loss: The same on the validation split.
        initial_validation_loss: The same before the first step.
        budget_flops: FLOPs the episode could spend.
        spent_flops: FLOPs it did spend.
        search_flops: FLOPs spent looking ahead, outside the budget; 0 for all but search agents.
        wall_s: Wall time of the episode's share of its population, seconds.
        diverged: Whether training ended in NaN or Inf.
        masked: How many chosen actions were masked and ran as `keep`.
        total_reward: Sum of the rewards.
        corpus_sha256: Of the text behind it; results are never compared across two.
    """

    job: Job
    start: str
    text_group: str
    test_loss: float
    validation_loss: float
    initial_validation_loss: float
    budget_flops: float
    spent_flops: float
    search_flops: float
    wall_s: float
    diverged: bool
    masked: int
    total_reward: float
    corpus_sha256: str


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode: its decisions, one a step, and its result."""

    decisions: tuple[Decision, ...]
    result: Result

    def curve(self) -> list[tuple[float, float]]:
        """`(share of the budget spent, best validation loss so far)`, the start first."""
        start = (0.0, self.result.initial_validation_loss)
        return [start, *((d.spent, d.best_validation_loss) for d in self.decisions)]

    def text(self) -> str:
        """The episode's lines: its decisions, then its result."""
        items: list[Decision | Result] = [*self.decisions, self.result]
        return "".join(json.dumps(dataclasses.asdict(item)) + "\n" for item in items)

    def save(self, path: Path) -> None:
        """Write the episode's file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, self.text())

    @classmethod
    def load(cls, path: Path) -> EpisodeRecord:
        """Read an episode's file.

        Raises:
            LlmoError: It is no such file, or was altered.
        """
        try:
            text = path.read_text()
        except (OSError, ValueError) as error:
            raise _no_episode(str(path), error) from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, file: str) -> EpisodeRecord:
        """An episode from its lines.

        Args:
            text: The lines.
            file: Where they come from, for the error.

        Raises:
            LlmoError: They are none of an episode, or were altered.
        """
        try:
            *steps, last = (json.loads(line) for line in text.splitlines())
            decisions = tuple(Decision(**{**step, "mixture": tuple(step["mixture"])}) for step in steps)
            job = last["job"]
            job["parameters"] = tuple((str(name), value) for name, value in job["parameters"])
            return cls(decisions, Result(**{**last, "job": Job(**job)}))
        except (ValueError, TypeError, KeyError) as error:
            raise _no_episode(file, error) from error


def _no_episode(file: str, error: Exception) -> LlmoError:
    return LlmoError("episode file", file, f"one that `llmo benchmark` wrote ({error})")


def load_records(folder: Path) -> list[EpisodeRecord]:
    """Every episode below `folder`, ordered by agent, seed, budget and index."""
    records = [EpisodeRecord.load(path) for path in sorted(folder.rglob("*.jsonl"))]
    return sorted(
        records, key=lambda r: (r.result.job.agent, r.result.job.seed, r.result.job.budget, r.result.job.index)
    )
