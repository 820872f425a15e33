"""One agent trains one model of a user's, step by step; killed at any moment, it goes on as if nothing had been.

What is saved is everything of the run, and what the agent has seen: when it sees the same again, it remembers the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llmo.agent import Agent, OptimizerAgent
from llmo.diagnostics.causes import diagnose
from llmo.engine.ranks import agreed
from llmo.engine.shards import ShardLayout
from llmo.engine.single import SingleSettings
from llmo.engine.structure import Structure
from llmo.errors import LlmoError
from llmo.evaluation.result import Decision
from llmo.evaluation.rollout import decision
from llmo.mdp.population import Population
from llmo.mdp.saved import pack, unpack
from llmo.mdp.spec import EnvSpec
from llmo.run_dir import RunDir

SAVED_EVERY = 20.0
"""Seconds of training that a kill may cost, about; they are done again, to the same bits."""


class Session:
    """An episode in a run folder.

    Args:
        spec: The environment of the model; see `own_spec`.
        agent: Who decides.
        seed: Of the episode, and of what is random in the agent.
        run: The folder; gets `decisions.jsonl` and checkpoints.
        device: Where the model is trained.
        single: In which precision and parts it is trained.
        saved_every: Seconds between checkpoints; 0 for one after each step.

    Attributes:
        decisions: So far.
        population: Holds the run, in slot 0.

    Raises:
        LlmoError: The agent plays several runs at once, looks ahead or brings an optimizer.
    """

    def __init__(
        self,
        spec: EnvSpec,
        agent: Agent,
        seed: int,
        run: RunDir,
        device: str = "cpu",
        single: SingleSettings | None = None,
        saved_every: float = SAVED_EVERY,
    ) -> None:
        if agent.members > 1 or agent.search or isinstance(agent, OptimizerAgent):
            raise LlmoError("agent", type(agent).__name__, "one that trains a single run, such as ppo or cosine")
        self.population = Population(spec, executor="single", device=device, single=single)
        self._agent, self._run, self._every = agent, run, saved_every
        self.decisions: list[Decision] = []
        self._seen: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
        instance = spec.draw("test", seed, 1.0)
        agent.bind(spec.space)
        agent.reset([seed])
        (schedule,) = agent.schedules([instance.start])
        saved = run.latest_checkpoint()
        run.rewind(saved)
        self.population.reset({0: instance}, {0: schedule})
        agent.attach(self.population, [0])
        if saved is not None:
            snapshot = unpack(saved.tensors, saved.meta["snapshot"], instance, spec.build(instance), schedule)
            self.population.restore(0, snapshot)
            for observation, mask in saved.meta["seen"]:
                self._ask(np.array(observation, np.float32), np.array(mask, np.bool_))
            self.decisions = [Decision(**(one | {"mixture": tuple(one["mixture"])})) for one in saved.meta["decisions"]]

    @property
    def ended(self) -> bool:
        """Whether the budget is spent, or training has diverged."""
        return self.population.episode(0).ended

    def finish(self, on_step: Callable[[Session], None]) -> None:
        """Train to the end.

        Args:
            on_step: Called after every environment step.
        """
        saved = time.monotonic()
        while not self.ended:
            self.step()
            if self.ended or time.monotonic() - saved >= self._every:
                self._save()
                saved = time.monotonic()
            on_step(self)

    def step(self) -> Decision:
        """One environment step."""
        observation, mask = self.population.observe(0), self.population.mask(0)
        cause = diagnose(observation)
        # A last bit must not part processes that train together.
        action, why = agreed(self._ask(observation, mask))
        taken = self.population.step({0: action})[0]
        chosen = self.population.spec.menu[action]
        self.decisions.append(decision(len(self.decisions), chosen, why, cause, taken))
        self._run.append(vars(self.decisions[-1]))
        return self.decisions[-1]

    def advice(self) -> tuple[str, str, tuple[str, str]]:
        """What the agent would do now and why, and which cause is diagnosed; nothing is done."""
        observation = self.population.observe(0)
        action, why = self._ask(observation, self.population.mask(0))
        return self.population.spec.menu[action], why, diagnose(observation)

    def delivered(self) -> Tensor:
        """The best weights by validation, [P], or the factors on a frozen model; to be called on all ranks."""
        run = self.population.run_of(0)
        delivered = run.delivered(0)[0]
        return run.layout.whole(delivered) if isinstance(run.layout, ShardLayout) else delivered

    @property
    def structure(self) -> Structure:
        """Which parts of the model that is delivered are left."""
        return self.population.run_of(0).saved_structure(0, "best")

    def _ask(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[int, str]:
        action = int(self._agent.act(observation[None], mask[None], np.array([not self._seen]))[0])
        self._seen.append((observation, mask))
        return action, (self._agent.explain() or [""])[0]

    def _save(self) -> None:
        tensors, snapshot = pack(self.population.snapshot(0))
        meta: dict[str, Any] = {
            "snapshot": snapshot,
            "seen": [(observation.tolist(), mask.tolist()) for observation, mask in self._seen],
            "decisions": [vars(one) for one in self.decisions],
        }
        self._run.checkpoint(len(self.decisions), tensors, meta)
