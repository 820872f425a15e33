"""What the engine costs, in ratios measured side by side: `llmo throughput --out runs/throughput`.

Every ratio is the median over pairs that are timed one right after the other, with its quartiles, so that a busy
machine slows both sides alike. One thread; about two minutes.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmo.registry import experiments

if TYPE_CHECKING:
    from llmo.engine.state import Problem
    from llmo.mdp.instances import Instance

ENV = "llmo/LanguageModel-v0"
SHAPE = (32, 2)
REPLICAS = 32
STEPS = 8
"""Optimizer steps of a program that is timed."""


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: What was timed.
        parameters: Of one model.
        tokens: In one replica's optimizer step.
        replicas: That train together.
        value: Median.
        unit: Of `value` and `against`.
        against: Median of what it is compared with; None for a row that stands alone.
        ratio: Median of the pairs' `value` over `against`.
        low: Lower quartile of the ratios.
        high: Upper quartile.
    """

    name: str
    parameters: int
    tokens: int
    replicas: int
    value: float
    unit: str
    against: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


TARGETS = {
    "env step, against a bare loop": "at most 1.05",
    "one program, against one after another": "at least 2",
    "snapshot and restore, against an optimizer step": "at most 0.10",
}


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds that a call takes, and what it gives."""
    started = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - started, result


def compare(name: str, problem: Problem, replicas: int, pairs: list[tuple[float, float]], unit: str) -> Row:
    """A row from pairs of values that were measured one right after the other."""
    import numpy as np

    values, against = np.array(pairs).T
    low, ratio, high = np.quantile(values / against, [0.25, 0.5, 0.75]).tolist()
    tokens = problem.batch * problem.task.tokens
    size = len(problem.weights)
    return Row(
        name, size, tokens, replicas, float(np.median(values)), unit, float(np.median(against)), ratio, low, high
    )


def instance_of_default_size(budget_scale: float = 1.0) -> Instance:
    """The first train instance of the default size from scratch, without a teacher and of the plain menu."""
    from llmo.mdp.instances import draw_instance

    for index in itertools.count():
        instance = draw_instance("train", index, budget_scale)
        plain = not instance.teacher and instance.start == "scratch"
        if plain and (instance.shape.width, instance.shape.depth) == SHAPE:
            return instance
    raise AssertionError("the instances do not end")


class BareLoop:
    """What a user would write: a Hugging Face model, torch's AdamW and clipping, windows from the same task.

    Args:
        problem: Whose data, batch and interval it uses.
    """

    def __init__(self, problem: Problem) -> None:
        import numpy as np
        import torch

        from llmo.engine.models import ModelShape, build_model
        from llmo.engine.optimizer import BETAS

        self.problem = problem
        self.model = build_model(ModelShape(*SHAPE), 0).train()
        rate = problem.hyperparameters.learning_rate
        self.optimizer = torch.optim.AdamW(self.model.parameters(), rate, betas=BETAS, weight_decay=0.01, fused=True)
        self.random = np.random.default_rng(0)

    def step(self) -> None:
        """One optimizer step."""
        import torch

        task, batch = self.problem.task, self.problem.batch
        windows = task.draw(self.random.integers(3, size=batch), self.random.random(batch))
        tokens = torch.from_numpy(windows)
        loss = self._loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()

    def interval(self, steps: int) -> None:
        """Some optimizer steps and a validation pass."""
        import torch

        for _ in range(steps):
            self.step()
        with torch.no_grad():
            examples = self.problem.task.validation
            self._loss(examples.inputs, examples.labels).item()

    def _loss(self, inputs: Any, labels: Any) -> Any:
        import torch

        logits = self.model(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def env_step(pairs: int) -> Row:
    """An environment step of one run, through Gymnasium, against the bare loop."""
    import gymnasium

    from llmo.mdp.problem import build_problem

    instance = instance_of_default_size()
    problem = build_problem(instance)
    bare = BareLoop(problem)
    env = gymnasium.make(ENV, split="train", instance=instance.index)
    keep = env.unwrapped.action_names.index("keep")  # type: ignore[attr-defined]
    found: list[tuple[float, float]] = []
    ended = True
    while len(found) < pairs:
        if ended:
            env.reset()
            env.step(keep)
            bare.interval(1)
        ours, (_, _, ended, _, info) = timed(env.step, keep)
        theirs, _ = timed(bare.interval, info["measurement"].optimizer_steps)
        found.append((1e3 * ours, 1e3 * theirs))
    return compare("env step, against a bare loop", problem, 1, found, "ms")


def one_program(pairs: int) -> Row:
    """Optimizer steps of replicas in one program against the same replicas one after another."""
    from llmo.engine.models import ModelShape
    from llmo.engine.run import Run
    from llmo.mdp.problem import build_problem

    instance = instance_of_default_size()
    problems = [
        replace(build_problem(replace(instance, seed=instance.seed + i)), interval=STEPS, budget=1e18)
        for i in range(REPLICAS)
    ]
    together = Run(ModelShape(*SHAPE), REPLICAS, "batched")
    alone = [Run(ModelShape(*SHAPE), 1, "single") for _ in problems]
    for row, (problem, run) in enumerate(zip(problems, alone, strict=True)):
        together.load(row, problem)
        run.load(0, problem)
    rows = list(range(REPLICAS))

    def each() -> None:
        for run in alone:
            run.train([0])

    together.train(rows)
    each()
    done = REPLICAS * STEPS
    found = [(done / timed(together.train, rows)[0], done / timed(each)[0]) for _ in range(pairs)]
    return compare("one program, against one after another", problems[0], REPLICAS, found, "replica-steps/s")


def snapshots(pairs: int) -> Row:
    """Snapshot and restore of one run against an optimizer step of it."""
    from llmo.mdp.population import Population
    from llmo.mdp.problem import build_problem
    from llmo.mdp.spec import env_spec

    instance = instance_of_default_size(budget_scale=1e6)
    population = Population(env_spec(ENV), 1)
    population.reset({0: instance})
    run = population.run_of(0)
    run.train([0])
    repeats = 20

    def back() -> None:
        for _ in range(repeats):
            population.restore(0, population.snapshot(0))

    steps = run.affordable_steps(0)
    found = [(1e3 * timed(back)[0] / repeats, 1e3 * timed(run.train, [0])[0] / steps) for _ in range(pairs)]
    name = "snapshot and restore, against an optimizer step"
    return compare(name, build_problem(instance), 1, found, "ms")


def population_steps(seconds: float) -> Row:
    """Environment steps of a population on train instances, new episodes included, under random allowed actions."""
    import numpy as np

    from llmo.engine.models import ModelShape, build_model
    from llmo.mdp.instances import BATCH, TOKENS, draw_instance
    from llmo.mdp.population import Population
    from llmo.mdp.spec import env_spec

    population = Population(env_spec(ENV), REPLICAS)
    rng = np.random.default_rng(0)
    indices = itertools.count()
    population.reset({slot: draw_instance("train", next(indices)) for slot in range(REPLICAS)})
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        taken = population.step({slot: rng.choice(population.mask(slot).nonzero()[0]) for slot in range(REPLICAS)})
        steps += len(taken)
        ended = [slot for slot, step in taken.items() if step.terminated]
        population.reset({slot: draw_instance("train", next(indices)) for slot in ended})
    value = steps / (time.perf_counter() - started)
    size = sum(p.numel() for p in build_model(ModelShape(*SHAPE), 0).parameters())
    return Row("env steps of a population", size, BATCH * TOKENS, REPLICAS, value, "steps/s")


@experiments.register("throughput")
def throughput(out: Path = Path("runs/throughput"), scale: float = 1.0) -> None:
    """Measure what the engine costs against plain loops.

    Args:
        out: Folder for `throughput.json`.
        scale: Multiplies how long it measures; positive.

    Raises:
        LlmoError: The scale is not positive.
    """
    from llmo.errors import LlmoError
    from llmo.evaluation.processes import one_thread
    from llmo.evaluation.provenance import provenance
    from llmo.run_dir import write_text_atomic

    if not scale > 0:
        raise LlmoError("scale", scale, "a positive number")
    out.mkdir(parents=True, exist_ok=True)
    one_thread()

    def times(number: int) -> int:
        return max(2, round(scale * number))

    rows = []
    for measure in (
        lambda: env_step(times(150)),
        lambda: one_program(times(20)),
        lambda: snapshots(times(60)),
        lambda: population_steps(30 * scale),
    ):
        rows.append(measure())
        print(line(rows[-1]), flush=True)
    result = {"rows": [asdict(row) for row in rows], **provenance()}
    write_text_atomic(out / "throughput.json", json.dumps(result, indent=1) + "\n")
    print(f"wrote {out / 'throughput.json'}")


def line(row: Row) -> str:
    """A row in words."""
    size = f"{row.replicas} x {row.parameters} parameters, {row.tokens} tokens"
    text = f"{row.name} ({size}): {row.value:.3g} {row.unit}"
    if row.ratio is None or row.against is None:
        return text
    spread = f"[{row.low:.3f}, {row.high:.3f}]"
    return f"{text} against {row.against:.3g}: ratio {row.ratio:.3f} {spread}, wanted {TARGETS[row.name]}"
