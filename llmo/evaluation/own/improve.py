"""Improves a user's model from end to end: probe, episode, export, scores, and the usual recipe beside it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from llmo import catalog
from llmo.actions.menu import WHOLE_MENU
from llmo.agent import Agent
from llmo.atomic import write_text_atomic
from llmo.cautious import tuning_agent
from llmo.engine.ranks import agreed, first_rank
from llmo.errors import LlmoError
from llmo.evaluation.own.adapter import adapter_model
from llmo.evaluation.own.budget import probe
from llmo.evaluation.own.compare import Comparison, compare
from llmo.evaluation.own.export import improved_model, save_model
from llmo.evaluation.own.order import Order
from llmo.evaluation.own.scoring import Score, score_model
from llmo.evaluation.own.session import Session
from llmo.evaluation.result import Decision
from llmo.mdp.own import OwnProblem, own_cost, own_default_rate, own_spec, with_affordable_validation
from llmo.run_dir import KEPT, ReadOnlyRunDir, RunDir

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAVED_BYTES = 28
"""Of a parameter in a checkpoint: weights and two moments, now and at the best validation, and the average.

What an agent keeps besides (registers, an anchor: 12 each) cannot be known before."""
HF_RATE = 5e-5
"""Learning rate of `transformers.TrainingArguments`."""


@dataclass(frozen=True)
class Improvement:
    """What came of it.

    Attributes:
        model: The improved model.
        decisions: What was done, step by step.
        before: Score of the model that was given, on the test examples.
        after: Score of the improved one.
        rivals: What the usual recipes give at the same budget, by name; empty where they were not asked for.
        against: How much better the improved model is than each of them.
        flops: What was spent, of what there was.
    """

    model: PreTrainedModel
    decisions: tuple[Decision, ...]
    before: Score
    after: Score
    rivals: Mapping[str, Score]
    against: Mapping[str, Comparison]
    flops: tuple[float, float]


def rivals(own: OwnProblem) -> dict[str, Agent]:
    """The recipes that people use: linear decay from llmo's default rate, and from that of `transformers.Trainer`."""
    usual = HF_RATE / own_default_rate(own)
    return {
        "linear decay from llmo's default rate": catalog.make_agent("linear", scratch=1.0, pretrained=1.0, warmup=0.0),
        "defaults of transformers": catalog.make_agent("linear", scratch=usual, pretrained=usual, warmup=0.0),
    }


def improve_model(
    order: Order,
    folder: Path,
    *,
    resume: bool = False,
    against: bool = False,
    say: Callable[[str], None] = print,
    on_step: Callable[[Session], None] = lambda session: None,
) -> Improvement:
    """Improve a model; what it took and what came of it lies in a folder.

    Args:
        order: What is to be done.
        folder: Gets `model/`, `decisions.jsonl`, `result.json` and checkpoints.
        resume: Whether to continue what is in it.
        against: Whether to train by the usual recipes too, at the same budget.
        say: Gets what should be said aloud.
        on_step: Called after every environment step.

    Raises:
        LlmoError: Something does not fit; nothing is written over.
    """
    agent = tuning_agent(order.agent, order.policy)
    if not resume:
        _check_disk(folder, order.own, 1 + len(rivals(order.own)) * against)
    with _run_dir(folder, resume) as run:
        order = _planned(order, run, say)
        session = _session(order, agent, run)
        # First, so that what a score needs is missed before the budget is spent.
        before = _score(order, order.own.model)
        session.finish(on_step)
        delivered = session.delivered()
        model = improved_model(order.own.model, delivered, order.own.rank, session.structure)
        if first_rank():
            kept = adapter_model(order.own.model, delivered) if order.keep_adapter else model
            save_model(kept, order.tokenizer, folder / "model")
        after = _score(order, model)
        others = {}
        for number, (name, agent) in enumerate(rivals(order.own).items() if against else ()):
            say(f"training by {name}, at the same budget")
            with _run_dir(folder / f"rival-{number + 1}", resume=True) as beside:
                rival = _session(order, agent, beside)
                rival.finish(lambda _: None)
                others[name] = _score(order, improved_model(order.own.model, rival.delivered(), order.own.rank))
        spent = session.population.run_of(0).states[0].spent
        result = Improvement(
            model,
            tuple(session.decisions),
            before,
            after,
            others,
            {name: compare(after, score) for name, score in others.items()},
            (spent, order.own.budget),
        )
        if first_rank():
            write_text_atomic(folder / "result.json", json.dumps(summary(result), indent=1) + "\n")
    return result


def _check_disk(folder: Path, own: OwnProblem, trainings: int) -> None:
    """Refuse to begin what cannot be saved.

    Raises:
        LlmoError: The disk has no room for the checkpoints of so many trainings and the model.
    """
    parameters = sum(parameter.numel() for parameter in own.model.parameters())
    needed = parameters * (4 if own.rank else trainings * (KEPT + 1) * SAVED_BYTES + 4)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise LlmoError("disk space", f"{free / 1e9:.3g} GB at {there}", f"{needed / 1e9:.3g} GB for checkpoints")


def _run_dir(folder: Path, resume: bool) -> RunDir:
    """The folder of a run, which the first of the processes that train together writes."""
    return RunDir(folder, resume) if first_rank() else ReadOnlyRunDir(folder, resume)


def advise(order: Order, say: Callable[[str], None] = print) -> tuple[str, str, tuple[str, str]]:
    """What an agent would do first, why, and which cause is diagnosed; only a probe trains, and nothing is kept."""
    agent = tuning_agent(order.agent, order.policy)
    with TemporaryDirectory() as folder, RunDir(folder) as run:
        return _session(_planned(order, run, say), agent, run).advice()


def summary(result: Improvement) -> dict[str, Any]:
    """What came of it, as JSON."""
    return {
        "before": result.before.metrics,
        "after": result.after.metrics,
        "rivals": {name: score.metrics for name, score in result.rivals.items()},
        "percent_less_loss": {name: asdict(comparison) for name, comparison in result.against.items()},
        "test_examples": len(result.after.losses),
        "flops": {"spent": result.flops[0], "budget": result.flops[1]},
    }


def _planned(order: Order, run: RunDir, say: Callable[[str], None]) -> Order:
    """The order with its budget in FLOPs; a probe has found out, now or before the run was resumed."""
    known = run.settled("probed")
    if known is None:
        found = probe(order.own, order.single, order.device)
        # Every process has a clock of its own.
        known = agreed({"flops": found.flops(order.budget), "accumulation": found.accumulation})
        parts = f", in {found.accumulation} parts as memory is short" if found.accumulation > 1 else ""
        say(
            f"probe: {1000 * found.step_seconds:.1f} ms for a step of {order.own.batch} sequences{parts}, "
            f"{found.flops_per_second / 1e9:.1f} GFLOP/s; the budget is {known['flops']:.3g} FLOPs, about "
            f"{known['flops'] / found.flops_per_second / 60:.1f} minutes"
        )
    own = with_affordable_validation(replace(order.own, budget=known["flops"]))
    own_spec(own).draw("test", order.seed, 1.0)
    run.settle(
        {
            "problem": own.name, "task": order.task, "agent": order.agent, "policy": order.policy, "seed": order.seed,
            "budget": asdict(order.budget), "batch": own.batch, "rank": own.rank, "probed": known,
            "sequence_flops": own_cost(own).train, "sizes": list(own.task.sizes), "single": asdict(order.single),
            "sha256": _fingerprint(own),
        }
    )  # fmt: skip
    return replace(order, own=own, single=replace(order.single, accumulation=known["accumulation"]))


def _fingerprint(own: OwnProblem) -> str:
    """Hash of the weights that training starts from, and of all examples."""
    digest = hashlib.sha256()
    for parameter in own.model.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    task = own.task
    for part in (task.validation.inputs, task.validation.labels, task.test.inputs, task.test.labels):
        digest.update(part.numpy().tobytes())
    for source in task.sources:
        for array in source if isinstance(source, tuple) else (source,):
            digest.update(np.ascontiguousarray(array).tobytes())
    if task.synonyms:
        digest.update(repr(sorted(task.synonyms.items())).encode())
    return digest.hexdigest()


def _session(order: Order, agent: Agent, run: RunDir) -> Session:
    return Session(own_spec(order.own, WHOLE_MENU), agent, order.seed, run, order.device, order.single)


def _score(order: Order, model: PreTrainedModel) -> Score:
    return score_model(model, order.tokenizer, order.task, order.labels, order.own.task.test)
