"""What an agent costs beside the training that it steers: inside `transformers.Trainer`, and in `llmo improve`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from llmo.cautious import tuning_agent
from llmo.engine.models import ModelShape, build_model
from llmo.evaluation.own.session import Session
from llmo.evaluation.throughput.environment import Stopwatch, timed_runs
from llmo.evaluation.throughput.problems import LARGE, SMALL
from llmo.evaluation.throughput.row import Row, Target, Workload, compared
from llmo.evaluation.throughput.timing import LEAST_ROUNDS, Effort
from llmo.mdp.own import own_cost, own_spec
from llmo.mdp.own_source import example_own
from llmo.run_dir import RunDir

BATCH, TOKENS, STEPS = 8, 64, 400
LONGER = 4
"""Times the example's budget that `improve` is measured with: some seconds of training."""


class Sequences(torch.utils.data.Dataset[dict[str, Any]]):
    """Random tokens.

    Args:
        count: How many sequences.
    """

    def __init__(self, count: int) -> None:
        self._ids = torch.randint(512, (count, TOKENS), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self._ids[index], "labels": self._ids[index]}


def trainer_callback(effort: Effort) -> Iterator[Row]:
    """Steps of `transformers.Trainer` with `TrainerCallback`, its evaluations not counted, and without it, in turn."""
    for shape in (SMALL, LARGE):
        pairs: list[tuple[float, float]] = []
        end = time.perf_counter() + 60 * effort.scale
        while len(pairs) < LEAST_ROUNDS or time.perf_counter() < end:
            pairs.append((_trained(shape, steered=True), _trained(shape, steered=False)))
        ours, alone = zip(*pairs, strict=True)
        size = sum(parameter.numel() for parameter in build_model(shape, 0).parameters())
        target = Target("at most", 1.01) if shape == LARGE else None
        yield compared(
            "trainer-callback", Workload(size, BATCH * TOKENS, 1), ours, alone, "s", target,
            note=f"Llama {shape}, {STEPS} steps with 20 decisions",
        )  # fmt: skip


def _trained(shape: ModelShape, steered: bool) -> float:
    """Processor time of a training without its evaluations."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from llmo.trainer.callback import TrainerCallback

    evaluations = Stopwatch()
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=STEPS, per_device_train_batch_size=BATCH, report_to=[], save_strategy="no", use_cpu=True,
            disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False, log_level="error",
        )  # fmt: skip
        trainer = Trainer(
            build_model(shape, 0), args, train_dataset=Sequences(BATCH * 100), eval_dataset=Sequences(BATCH)
        )
        trainer.remove_callback(PrinterCallback)
        trainer.evaluate = evaluations.around(trainer.evaluate)  # type: ignore[method-assign]
        if steered:
            callback = TrainerCallback()
            callback._say = lambda state, text: None  # type: ignore[method-assign]
            trainer.add_callback(callback)
        started = time.process_time()
        trainer.train()
        return time.process_time() - started - evaluations.seconds


def improve_steps(effort: Effort) -> Iterator[Row]:
    """A run of `llmo improve`, with decisions, records and checkpoints, against training and validation in it."""
    pairs: list[tuple[float, float]] = []
    example = example_own(ModelShape(128, 2))
    own = replace(example, budget=LONGER * example.budget)
    end = time.perf_counter() + 15 * effort.scale
    while len(pairs) < LEAST_ROUNDS or time.perf_counter() < end:
        with TemporaryDirectory() as folder, RunDir(Path(folder)) as run, timed_runs("train", "evaluate") as engine:
            session = Session(own_spec(own), tuning_agent("ppo"), 0, run)
            started, before = time.process_time(), engine.seconds
            session.finish(lambda _: None)
            pairs.append((time.process_time() - started, engine.seconds - before))
    ours, alone = zip(*pairs, strict=True)
    size = sum(parameter.numel() for parameter in own.model.parameters())
    yield compared(
        "improve", Workload(size, own.batch * own.task.tokens, 1), ours, alone, "s", Target("at most", 1.03),
        executor="single", note=f"classification, {own.budget / own_cost(own).train / own.batch:.0f} steps",
    )  # fmt: skip
