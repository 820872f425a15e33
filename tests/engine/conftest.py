"""Small problems for the engine: random tokens, a Llama of a few thousand parameters."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from llmo.engine.layout import Layout
from llmo.engine.models import ModelShape, build_model
from llmo.engine.state import Problem
from llmo.hyperparameters import Hyperparameters
from llmo.tasks.causal_lm import CausalLM

SHAPE = ModelShape(8, 2)
TOKENS = 8


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    """Problems by seed; equal seeds give equal ones, and settings of the hyperparameters can be given."""

    def make(seed: int = 0, interval: int = 4, teacher: bool = False, **settings: Any) -> Problem:
        rng = np.random.default_rng(seed)
        fields = {"budget": 1e15, "batch": 2, "roles": ((0.0, (0, 1, 2)),), "start": "scratch", "rank": 0}
        weights = settings.pop("weights", None)
        if weights is None:
            model = build_model(SHAPE, seed)
            weights = Layout(model).flatten(model)
        fields |= {name: settings.pop(name) for name in list(settings) if name in fields}
        return Problem(
            task=CausalLM(
                tuple(rng.integers(0, 64 * (1 + i), 300).astype(np.int16) for i in range(3)),
                rng.integers(0, 64, (5, TOKENS + 1)),
                rng.integers(0, 64, (6, TOKENS + 1)),
            ),
            weights=weights,
            teacher=build_model(ModelShape(12, 1), seed % 2).eval() if teacher else None,
            hyperparameters=Hyperparameters(**({"learning_rate": 5e-3} | settings)),
            interval=interval,
            seed=seed + 2**40,
            **fields,
        )

    return make
