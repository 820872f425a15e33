"""What every plug-in must obey: `llmo check NAME`, and a test for each registered name."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from llmo import catalog
from llmo.errors import LlmoError
from llmo.evaluation.action_checks import check_action
from llmo.evaluation.agent_checks import check_agent
from llmo.evaluation.compare import difference
from llmo.evaluation.env_checks import check_environment
from llmo.evaluation.findings import Findings, require, require_same
from llmo.kinds import IGNORED
from llmo.mdp.spec import env_spec
from llmo.tasks.task import Task


def check(name: str, kinds: int | None = None) -> list[str]:
    """Check whatever is registered under a name, in every kind that has it.

    Args:
        name: Of an environment, an agent, an action, a task or an experiment.
        kinds: On how many kinds of run an action is checked; None for all.

    Returns:
        Lines that begin with ``ok`` or ``FAIL``.

    Raises:
        LlmoError: Nothing has this name.
    """
    for kind in CHECKS:
        catalog.load(kind)
    having = [kind for kind in CHECKS if name in catalog.KINDS[kind]]
    if not having:
        raise LlmoError("name", name, sorted({name for kind in CHECKS for name in catalog.KINDS[kind].names()}))
    lines = []
    for kind in having:
        registry, findings = catalog.KINDS[kind], Findings()
        with findings.that("has a summary for `llmo list`"):
            require(registry.summary(name), "its docstring is empty")
        if kind == "actions" and kinds is not None:
            check_action(name, findings, kinds)
        else:
            CHECKS[kind](name, findings)
        lines += [re.sub(r"^(\S+ +)", rf"\1{registry.kind} {name} ", line) for line in findings.lines]
    return lines


def check_task(name: str, findings: Findings) -> None:
    """Check a task on a problem of an environment that has it."""
    kind = catalog.get("tasks", name)
    task: Task | None = None
    with findings.that("is a Task, and an environment has it"):
        require(isinstance(kind, type) and issubclass(kind, Task), "it is no subclass of llmo.tasks.task.Task")
        for env in catalog.KINDS["envs"].names():
            spec = env_spec(env)
            found = spec.build(spec.draw("train", 0, 1.0)).task
            task = found if isinstance(found, kind) else task
        require(task is not None, "no registered environment builds one")
    if task is None:
        return
    with findings.that("validation and test examples are [sequences, tokens], their labels [sequences, positions]"):
        for examples in (task.validation, task.test):
            require(len(examples.inputs) == len(examples.labels), "inputs and labels differ in number")
            require(examples.inputs.shape[1:] == (task.tokens,), f"sequences are not of {task.tokens} tokens")
            require(examples.labels.shape[1:] == (task.positions,), f"labels are not of {task.positions} positions")
        require(len(task.sizes) == 3, f"{len(task.sizes)} sources instead of 3")
    with findings.that("what is drawn follows from the numbers that are given"):
        material, u = np.array([0, 1, 2, 0]), np.array([0.0, 0.3, 0.9999999, 0.7])
        drawn = task.draw(material, u)
        shapes = [array.shape for array in drawn]
        require(shapes == [(4, task.tokens), (4, task.positions)], f"drawn are {shapes}")
        require_same(difference(drawn, task.draw(material, u), "draw"))
        alone = task.draw(material[2:3], u[2:3])
        require_same(difference(tuple(array[2:3] for array in drawn), alone, "one entry alone"))
    with findings.that("the score is the mean loss of the labels"):
        labels = task.validation.labels[None, :3]
        vocabulary = int(max(examples.inputs.max() for examples in (task.validation, task.test))) + 1
        logits = torch.randn(1, *labels.shape[1:], max(vocabulary, 8), generator=torch.Generator().manual_seed(0))
        labels = torch.where(labels == IGNORED, labels, labels % logits.shape[-1])
        mean = task.loss(logits, labels, None, None)[1].double().sum() / task.counts(labels).sum()
        require(
            torch.allclose(task.score(logits, labels), mean[None]), f"mean {mean}, score {task.score(logits, labels)}"
        )


def check_experiment(name: str, findings: Findings) -> None:
    """Check an experiment by its signature and its docstring; it is not run."""
    function: Callable[..., Any] = catalog.get("experiments", name)
    parameters = inspect.signature(function).parameters
    with findings.that("every parameter has a type"):
        hints = typing.get_type_hints(function)
        untyped = [parameter for parameter in parameters if parameter not in hints]
        require(not untyped, ", ".join(untyped))
    with findings.that("every parameter is described in the docstring"):
        text = inspect.getdoc(function) or ""
        missing = [parameter for parameter in parameters if not re.search(rf"^ +{parameter}: \S", text, re.MULTILINE)]
        require(not missing, ", ".join(missing))
    with findings.that("its result is written to files or printed, not returned"):
        require(hints.get("return") in (None, type(None)), f"it returns {hints.get('return')}")


CHECKS: dict[str, Callable[[str, Findings], None]] = {
    "envs": check_environment,
    "agents": check_agent,
    "actions": check_action,
    "tasks": check_task,
    "experiments": check_experiment,
}
"""The check of each kind of plug-in."""
