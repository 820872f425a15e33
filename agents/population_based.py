"""Random search and population-based training: several runs of one instance share its budget, and the best one counts.

Their runs begin with settings of their own, drawn at random and in force from the first optimizer step, which a player
of the menu has to pay steps for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmo.agent import KeepingAgent
from llmo.mdp.population import Population
from llmo.registry import agents

MEMBERS = 4
"""Of 4 and 8, the better on train instances 0 to 103. Random search at equal FLOPs does best with 2 of 2, 4 and 8;
where the worst quarter copies the best, there have to be 4."""
RATES = 16.0
"""Most by which a drawn rate is above or below the default."""
DECAYS = (0.0, 0.5, 0.8)
"""Shares of the budget from which the rate decays to zero."""
AT_WALL_TIME = 0.55
"""Share of the budget that each of four members may have in the time that one run takes, if four small models at a time
train at 2.2 times the speed of one; `llmo throughput` finds 1.9 to 2.0 times (rows of the sweep)."""


class Members(KeepingAgent):
    """Runs that begin with settings drawn at random."""

    members = MEMBERS
    share = 1 / MEMBERS

    def attach(self, population: Population, slots: Sequence[int]) -> None:
        """Give each run its settings.

        Args:
            population: What plays the runs.
            slots: Slot of each.
        """
        super().attach(population, slots)
        self._population, self._slots = population, list(slots)
        self._randoms = [np.random.default_rng(seed) for seed in self.seeds]
        for slot, random in zip(slots, self._randoms, strict=True):
            self._draw(slot, random)

    def _draw(self, slot: int, random: np.random.Generator) -> None:
        run = self._population.run_of(slot)
        teacher = run.states[slot].problem.teacher is not None and random.random() < 0.5
        run.change(
            slot,
            learning_rate=float(run.default_rate(slot) * RATES ** random.uniform(-1, 1)),
            decay_from=float(random.choice(DECAYS)),
            mixing=str(random.choice(["uniform", "tracking"])),
            augmentation=str(random.choice(["off", "token_noise"], p=[0.75, 0.25])),
            distillation="teacher" if teacher else "off",
        )

    def explain(self) -> list[str]:
        """See `Agent.explain`."""
        return [f"{self._population.run_of(slot).states[slot].hyperparameters}" for slot in self._slots]


@agents.register("random_search")
class RandomSearch(Members):
    """Two runs with random settings and half of the budget each; the best on validation counts."""

    members, share = 2, 1 / 2


@agents.register("random_search_wall")
class RandomSearchAtWallTime(RandomSearch):
    """Four such runs with as much budget as they can spend together in the time that one run takes."""

    members, share = MEMBERS, AT_WALL_TIME


@agents.register("pbt")
class PopulationBasedTraining(Members):
    """Population-based training (Jaderberg et al. 2017) with a quarter of the budget for each of four members.

    After every environment step the worst quarter copies the best quarter, weights, optimizer and settings, and turns
    its rate by `PERTURB` up or down.
    """

    PERTURB = 1.5

    def attach(self, population: Population, slots: Sequence[int]) -> None:
        """See `Members.attach`."""
        super().attach(population, slots)
        self._steps = 0

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`; a copy is made before the step."""
        if self._steps:
            for places in self._populations():
                self._exploit(places)
        self._steps += 1
        return super().act(observation, mask, episode_start)

    def _populations(self) -> list[list[int]]:
        """Places of the runs that are members of one population, where all of them go on."""
        together: dict[int, list[int]] = {}
        for place, slot in enumerate(self._slots):
            together.setdefault(self._population.episode(slot).instance.index, []).append(place)
        going = {slot for slot in self._slots if not self._population.episode(slot).ended}
        return [places for places in together.values() if all(self._slots[place] in going for place in places)]

    def _exploit(self, places: Sequence[int]) -> None:
        quarter = len(places) // 4
        order = sorted(
            places, key=lambda place: self._population.episode(self._slots[place]).history.last.validation_loss
        )
        for good, bad in zip(order[:quarter], reversed(order), strict=False):
            self._copy(self._slots[good], self._slots[bad], self._randoms[bad])

    def _copy(self, source: int, slot: int, random: np.random.Generator) -> None:
        """A run goes on from the state of another; what it has spent does not come back."""
        spent = self._population.run_of(slot).states[slot].spent
        self._population.restore(slot, self._population.snapshot(source))
        run = self._population.run_of(slot)
        state = run.states[slot]
        state.spent = max(spent, state.spent)
        turned = state.hyperparameters.learning_rate * self.PERTURB ** random.choice([-1, 1])
        run.change(slot, learning_rate=float(turned))


@agents.register("pbt_wall")
class PopulationBasedTrainingAtWallTime(PopulationBasedTraining):
    """The same with as much budget as four members together can spend in the time that one run takes."""

    share = AT_WALL_TIME
