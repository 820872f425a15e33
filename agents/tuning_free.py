"""Optimizers that need no schedule: rivals from other libraries, of the extra `rivals`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO

import torch

from llmo.agent import OptimizerAgent
from llmo.registry import agents
from llmo.schedules import PEAKS

WEIGHT_DECAY = 0.01
"""As everybody else's by default."""


@agents.register("schedule_free")
class ScheduleFree(OptimizerAgent):
    """Schedule-free AdamW (Defazio et al. 2024) with a tuned rate.

    Args:
        scratch: Its rate from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.
    """

    package = "schedulefree"
    grid = {"scratch": PEAKS, "pretrained": PEAKS}

    def __init__(self, scratch: float = 1.0, pretrained: float = 1.0) -> None:
        self.scratch, self.pretrained = scratch, pretrained

    def optimizer(self, parameters: Iterable[torch.Tensor], start: str, rate: float) -> torch.optim.Optimizer:
        """See `OptimizerAgent.optimizer`."""
        from schedulefree import AdamWScheduleFree

        factor = self.pretrained if start == "pretrained" else self.scratch
        return AdamWScheduleFree(parameters, lr=factor * rate, weight_decay=WEIGHT_DECAY)


@agents.register("prodigy")
class Prodigy(OptimizerAgent):
    """Prodigy (Mishchenko and Defazio 2024), which estimates the rate by itself.

    Args:
        d_coef: Factor on its estimate.
    """

    package = "prodigyopt"
    grid = {"d_coef": (0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)}

    def __init__(self, d_coef: float = 1.0) -> None:
        self.d_coef = d_coef

    def optimizer(self, parameters: Iterable[torch.Tensor], start: str, rate: float) -> torch.optim.Optimizer:
        """See `OptimizerAgent.optimizer`."""
        from prodigyopt import Prodigy as Optimizer

        # It prints a line for every run.
        with redirect_stdout(StringIO()):
            return Optimizer(parameters, d_coef=self.d_coef, weight_decay=WEIGHT_DECAY, safeguard_warmup=True)
