"""Training with an optimizer of another library: a plain loop over the same batches, budget and validation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmo.engine.intervals import draw_interval, tally
from llmo.engine.models import build_model
from llmo.engine.optimizer import CLIP_NORM
from llmo.engine.run import Run
from llmo.mdp.instances import Instance
from llmo.mdp.population import Population
from llmo.mdp.spec import EnvSpec

MakeOptimizer = Callable[[Iterable[Tensor], float], torch.optim.Optimizer]
"""Parameters of the model and the default rate of the instance to an optimizer."""


class OptimizerRun(Run):
    """One replica whose updates are those of a torch optimizer; settings of the menu that concern updates do nothing.

    Args:
        model: The Hugging Face model.
        make: Makes the optimizer when training begins.
    """

    def __init__(self, model: Any, make: MakeOptimizer) -> None:
        super().__init__(model, 1, "single")
        self._model, self._make = copy.deepcopy(model).train(), make
        self._optimizer: Any = None

    def train(self, rows: Sequence[int]) -> None:
        """See `Run.train`."""
        (row,) = rows
        state, steps = self.states[row], self.affordable_steps(row)
        interval = draw_interval(row, state, steps, self.step_cost(row), self.default_rate(row), self.words(row))
        if self._optimizer is None:
            for parameter, values in zip(self._model.parameters(), self._views(row), strict=True):
                parameter.data.copy_(values)
            self._optimizer = self._make(self._model.parameters(), self.default_rate(row))
        self._switch("train")
        losses, norms = [], []
        for inputs, labels in zip(interval.inputs, interval.labels, strict=True):
            each, reported = state.problem.task.loss(self._model(input_ids=inputs).logits, labels, None, None)
            self._optimizer.zero_grad()
            each.mean().backward()
            norms.append(torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP_NORM).item())
            losses.append(reported.mean(-1).numpy())
            self._optimizer.step()
        tally(state, interval, np.array(losses, np.float64), np.array(norms))
        self._switch("eval")
        self.rows[row].own_full()
        for parameter, values in zip(self._model.parameters(), self._views(row), strict=True):
            values.copy_(parameter.data)

    def _views(self, row: int) -> list[Tensor]:
        return list(self.layout.unflatten(self.rows[row].weights).values())

    def _switch(self, mode: str) -> None:
        """Schedule-free optimizers train in one place and are evaluated in another."""
        getattr(self._optimizer, mode, lambda: None)()


class OptimizerPopulation(Population):
    """One slot whose run updates by a torch optimizer.

    Args:
        spec: The environment.
        make: Makes the optimizer.
    """

    def __init__(self, spec: EnvSpec, make: MakeOptimizer) -> None:
        super().__init__(spec, executor="single")
        self._make = make
        self._own: OptimizerRun | None = None

    def _run(self, instance: Instance) -> Run:
        if self._own is None:
            self._own = OptimizerRun(build_model(instance.shape, 0), self._make)
        return self._own
