"""A constant learning rate, tuned apart for scratch and pre-trained starts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmo.agent import Agent, Schedule
from llmo.registry import agents


@agents.register("constant")
class Constant(Agent):
    """A constant rate, as a multiple of the default."""

    def __init__(self, scratch: float = 1.0, pretrained: float = 1.0) -> None:
        self.scratch, self.pretrained = scratch, pretrained

    def schedules(self, starts: Sequence[str]) -> list[Schedule | None]:
        return [lambda spent, rate=getattr(self, start): rate for start in starts]

    def act(self, observation, mask, episode_start) -> NDArray[np.int64]:
        return np.full(len(observation), self.space.action("keep"))
