"""Rollout search by snapshots: an upper mark, not a rival, because it looks ahead outside the budget.

Every allowed action is tried on a copy of the run, with batches that the run itself will not see, and what validates
best is done. A copy lives in the same world, so its sources change when the run's will.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmo.agent import Agent
from llmo.mdp.population import Population, Snapshot
from llmo.registry import agents

SLOTS = 64
"""Branches that are run together."""


@dataclass(frozen=True)
class Branch:
    """What one action led to.

    Attributes:
        best: Lowest validation loss by the end of the look-ahead, nats per token.
        last: The one at its end; decides where no action improved on the best.
        flops: What looking cost.
    """

    best: float
    last: float
    flops: float


class RolloutSearch(Agent):
    """Tries every allowed action on a copy of the run.

    Attributes:
        horizon: Environment steps that a copy is followed; 0 for to the end of the episode.
        tail: What a copy does after the action, once, where it is allowed; then it keeps.
    """

    search = True
    drawn_rate = True
    horizon: int
    tail: str = "keep"

    def attach(self, population: Population, slots: Sequence[int]) -> None:
        """Say where the runs are.

        Args:
            population: What plays them; only ever read.
            slots: Slot of each run.
        """
        super().attach(population, slots)
        self._population, self._slots = population, list(slots)
        self._copies = Population(population.spec, SLOTS, executor="batched")

    def reset(self, seeds: Sequence[int]) -> None:
        """See `Agent.reset`; the seeds are of the copies' batches."""
        super().reset(seeds)
        self._steps = [0] * len(seeds)
        self._reasons = [""] * len(seeds)

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`."""
        chosen = np.full(len(observation), self.space.action("keep"))
        going = [run for run, slot in enumerate(self._slots) if not self._population.episode(slot).ended]
        asked = [(run, int(action)) for run in going for action in np.flatnonzero(mask[run])]
        copies = {run: self._fresh_copy(run) for run in going}
        # Neighbours in this order cost about the same, so no slot waits long for another.
        asked.sort(key=lambda pair: str(copies[pair[0]].episode.instance.shape))
        found: dict[tuple[int, int], Branch] = {}
        for first in range(0, len(asked), SLOTS):
            part = asked[first : first + SLOTS]
            found |= dict(zip(part, self._follow([(copies[run], action) for run, action in part]), strict=True))
        for run in going:
            branches = {action: branch for (of, action), branch in found.items() if of == run}
            chosen[run] = self._decide(run, branches)
            self._steps[run] += 1
        return chosen

    def explain(self) -> list[str]:
        """See `Agent.explain`."""
        return self._reasons

    def _fresh_copy(self, run: int) -> Snapshot:
        """The run now, with another seed: all its branches see the same batches, but not those of the run."""
        snapshot = self._population.snapshot(self._slots[run])
        state = snapshot.row.state
        seed = np.random.SeedSequence([self.seeds[run], self._steps[run]]).generate_state(1, np.uint64)[0]
        problem = dataclasses.replace(state.problem, seed=int(seed >> np.uint64(1)))
        row = dataclasses.replace(snapshot.row, state=dataclasses.replace(state, problem=problem))
        return dataclasses.replace(snapshot, row=row)

    def _follow(self, branches: Sequence[tuple[Snapshot, int]]) -> list[Branch]:
        """Take an action in each of at most `SLOTS` copies, then follow them."""
        copies = self._copies
        for slot, (snapshot, _) in enumerate(branches):
            copies.restore(slot, snapshot)
        actions = {slot: action for slot, (_, action) in enumerate(branches)}
        keep, step = self.space.action("keep"), 0
        waiting = set(actions)
        while actions:
            steps = copies.step(actions)
            step += 1
            actions = {slot: keep for slot, taken in steps.items() if not taken.terminated and step != self.horizon}
            if self.tail in self.space.actions:
                tail = self.space.action(self.tail)
                ready = [slot for slot in actions if slot in waiting and copies.mask(slot)[tail]]
                waiting.difference_update(ready)
                actions |= dict.fromkeys(ready, tail)
        results = []
        for slot, (snapshot, _) in enumerate(branches):
            measured = copies.episode(slot).history.last
            flops = copies.run_of(slot).states[slot].spent - snapshot.row.state.spent
            results.append(Branch(measured.best_validation_loss, measured.validation_loss, flops))
        return results

    def _decide(self, run: int, branches: Mapping[int, Branch]) -> int:
        """The best action of a run, `keep` where nothing is better."""
        keep = self.space.action("keep")
        best = min(branches, key=lambda action: (branches[action].best, branches[action].last, action != keep))
        self.search_flops[run] += sum(branch.flops for branch in branches.values())
        ahead = {0: "at the end", 1: "after one step"}.get(self.horizon, f"after {self.horizon} steps")
        self._reasons[run] = (
            f"best of {len(branches)} actions tried: loss {branches[best].best:.3f} {ahead}, "
            f"{branches[keep].best:.3f} with keep"
        )
        return best


@agents.register("search_1")
class SearchOneStep(RolloutSearch):
    """Search: tries every action one step ahead on copies of the run."""

    horizon = 1


@agents.register("search_3")
class SearchThreeSteps(RolloutSearch):
    """Search: tries every action three steps ahead on copies of the run."""

    horizon = 3


@agents.register("search_full")
class SearchToTheEnd(RolloutSearch):
    """Search: tries every action to the end of the episode on copies of the run, which then decay."""

    horizon = 0
    tail = "rate_decay"
