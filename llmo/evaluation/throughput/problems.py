"""What is trained while speed is measured: plain problems of a given size, from scratch, without end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from llmo.engine.adapters import grow
from llmo.engine.layout import MAX_RANK, FactorLayout, Layout
from llmo.engine.models import ModelShape, build_model
from llmo.engine.run import Run
from llmo.engine.state import Problem
from llmo.evaluation.throughput.row import Workload
from llmo.hyperparameters import Hyperparameters, default_learning_rate
from llmo.mdp.instances import Instance, draw_instance
from llmo.mdp.sizes import BATCH, TOKENS, VALIDATION_SEQUENCES
from llmo.mdp.spec import EnvSpec, env_spec
from llmo.tasks.causal_lm import CausalLM
from llmo.tasks.text import load_corpus

ENV = "llmo/LanguageModel-v0"
SMALL, DEEP, LARGE = ModelShape(56, 2), ModelShape(40, 4), ModelShape(160, 3)
"""0.1 million parameters, the same in more layers, and 1 million."""
STEPS = 8
"""Optimizer steps of an interval, the fewest that an instance of the environment has."""
ENDLESS = 1e18
"""FLOPs that no measuring spends."""


@dataclass(frozen=True)
class Setup:
    """What a population trains.

    Attributes:
        shape: Of the model.
        replicas: N.
        batch: Sequences in one optimizer step.
        tokens: In each sequence.
        steps: Optimizer steps of an interval.
    """

    shape: ModelShape
    replicas: int = 1
    batch: int = BATCH
    tokens: int = TOKENS
    steps: int = STEPS

    @property
    def workload(self) -> Workload:
        """For the row of a measurement."""
        size = sum(parameter.numel() for parameter in build_model(self.shape, 0).parameters())
        return Workload(size, self.batch * self.tokens, self.replicas)

    def __str__(self) -> str:
        return f"Llama {self.shape}, {self.batch} x {self.tokens} tokens"


def plain_problem(setup: Setup, seed: int) -> Problem:
    """A problem from scratch at the default rate.

    Args:
        setup: What is trained.
        seed: Of its weights and its data.
    """
    corpus = load_corpus().tokens
    text, held_out = (corpus["prose", "train", split] for split in ("training", "validation"))
    windows = held_out[: VALIDATION_SEQUENCES * (setup.tokens + 1)].reshape(-1, setup.tokens + 1).astype(np.int64)
    model = build_model(setup.shape, seed)
    weights = Layout(model).flatten(model)
    return Problem(
        task=CausalLM((text, text, text), windows, windows),
        weights=weights,
        teacher=None,
        start="scratch",
        hyperparameters=Hyperparameters(default_learning_rate(len(weights), "scratch", "full")),
        roles=((0.0, (0, 1, 2)),),
        interval=setup.steps,
        batch=setup.batch,
        budget=ENDLESS,
        seed=seed,
    )


def loaded_run(setup: Setup, executor: str, frozen: bool = False, device: str = "cpu") -> Run:
    """A run with a problem in every row; on a frozen base the rows hold fresh LoRA factors of the highest rank.

    Raises:
        LlmoError: This machine cannot run the executor.
    """
    run = Run(build_model(setup.shape, 0), setup.replicas, executor, frozen, device)
    for row in range(setup.replicas):
        problem = plain_problem(setup, row)
        if isinstance(run.layout, FactorLayout):
            factors = torch.zeros(run.layout.width)
            grow(run.layout.factors, factors, 0, MAX_RANK, row)
            problem = replace(problem, weights=factors, start="pretrained", rank=MAX_RANK)
        run.load(row, problem)
    return run


def plain_spec(shape: ModelShape) -> EnvSpec:
    """The default environment with instances of one shape, from scratch, without a teacher, end or anything hidden."""

    def draw(part: str, index: int, budget_scale: float) -> Instance:
        return replace(
            draw_instance(part, index, budget_scale),
            shape=shape,
            start="scratch",
            base="",
            damage=0.0,
            teacher="",
            rate_factor=1.0,
            interval=STEPS,
            budget=ENDLESS,
            neutral=(),
            closed=(),
        )

    return replace(env_spec(ENV), draw=draw)
