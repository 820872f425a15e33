"""A user's model and data by name, and opened: what commands, workers and `llmo/Own-v0` build a problem from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmo.atomic import write_text_atomic
from llmo.engine.models import ModelShape, model_config
from llmo.engine.own_models import HEADED, fresh_model, open_model
from llmo.errors import LlmoError, at_least
from llmo.hyperparameters import Start
from llmo.mdp.own import BUDGETS, STEPS, OwnProblem, own_cost, with_affordable_validation
from llmo.tasks.library_examples import library_examples
from llmo.tasks.own.columns import OWN_TASKS, OwnTask
from llmo.tasks.own.data import OwnData, load_data
from llmo.tasks.own.encode import Encoded, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RANKS = (0, 2, 4, 8)
EXAMPLE = ModelShape(8, 1)


@dataclass(frozen=True)
class Opened:
    """A model and data that fit each other.

    Attributes:
        name: Says what it is, in records.
        model: The model.
        tokenizer: Its tokenizer.
        start: From scratch, or pre-trained.
        data: What is learned.
        encoded: The same as the model reads it.
    """

    name: str
    model: PreTrainedModel
    tokenizer: Any
    start: Start
    data: OwnData
    encoded: Encoded

    def problem(self, batch: int, rank: int, budget: float) -> OwnProblem:
        """What is to be improved.

        Args:
            batch: Sequences in an optimizer step.
            rank: Of LoRA factors on the frozen model; 0 trains all weights.
            budget: FLOPs.

        Raises:
            LlmoError: A number is out of range.
        """
        check_sizes(batch, rank)
        task = self.encoded.task
        task.codec = getattr(self.tokenizer, "backend_tokenizer", None)
        return OwnProblem(
            name=self.name,
            model=self.model,
            task=task,
            sources=len(self.data.training),
            start=self.start,
            batch=batch,
            budget=budget,
            rank=rank,
            numbers=self.data.task == "regression",
        )


@dataclass(frozen=True)
class OwnSource:
    """Where a model and data are.

    Attributes:
        model: Folder, name on the hub, or ``scratch:WIDTHxDEPTH``.
        data: Folder, file, or name on the hub, such as ``glue:cola`` where it has configurations.
        task: What is learned.
        columns: Column by role, where the user has named some.
        seed: Of splits, and of fresh weights.

    Raises:
        LlmoError: A name is missing, or there is no such task.
    """

    model: str
    data: str
    task: OwnTask
    columns: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("model", "a folder, or scratch:64x2"), ("data", "a folder or a file")):
            if not getattr(self, name):
                raise LlmoError(f"--{name}", "", allowed)
        if self.task not in OWN_TASKS:
            raise LlmoError("--task", self.task, OWN_TASKS)
        at_least(0, seed=self.seed)

    def open(self, weights: int | None = None) -> Opened:
        """Load both.

        Args:
            weights: Seed of fresh weights, if it is another one.

        Raises:
            LlmoError: Something about the model or the data.
        """
        own = open_model(self.model, self.task)
        data = load_data(self.data, self.task, self.columns, self.seed)
        encoded = encode(data, own.tokenizer, own.config, own.context)
        model = own.build(encoded.labels if self.task in HEADED else None, self.seed if weights is None else weights)
        name = f"{Path(self.model).name} on {Path(self.data).name}"
        return Opened(name, model, own.tokenizer, own.start, data, encoded)


def check_sizes(batch: int, rank: int) -> None:
    """Check what an optimizer step trains.

    Args:
        batch: Sequences in it, at least 1.
        rank: Of LoRA factors; 0 trains all weights.

    Raises:
        LlmoError: One of them is out of range.
    """
    at_least(1, batch=batch)
    if rank not in RANKS:
        raise LlmoError("lora", rank, "0, 2, 4 or 8")


def columns_of(pairs: list[str] | None) -> dict[str, str]:
    """Columns by role from pairs such as ``text=body``.

    Raises:
        LlmoError: One of them is no pair.
    """
    found = {}
    for pair in pairs or ():
        role, equals, column = pair.partition("=")
        if not (role and equals and column):
            raise LlmoError("columns", pair, "pairs such as text=body,label=topic")
        found[role] = column
    return found


def write_own(file: Path, source: OwnSource, batch: int, rank: int, budget: float) -> None:
    """Write what `llmo/Own-v0` reads.

    Args:
        file: Where to.
        source: Model and data; their folders by their absolute names, as workers may stand elsewhere.
        batch: Sequences in an optimizer step.
        rank: Of LoRA factors; 0 trains all weights.
        budget: FLOPs.
    """
    found = {"model": _absolute(source.model), "data": _absolute(source.data)}
    content = {**asdict(source), **found, "batch": batch, "rank": rank, "budget": budget}
    write_text_atomic(file, json.dumps(content, indent=1) + "\n")


def _absolute(name: str) -> str:
    """A folder or file by its absolute name, with its configuration after a colon; a name on the hub as it is."""
    folder, colon, configuration = name.partition(":")
    if Path(name).exists():
        return str(Path(name).resolve())
    return f"{Path(folder).resolve()}:{configuration}" if colon and Path(folder).is_dir() else name


def read_own(file: Path) -> OwnProblem:
    """Open what `write_own` has written.

    Raises:
        LlmoError: It is no such file, or something about the model or the data.
    """
    try:
        content = dict(json.loads(file.read_text()))
        batch, rank, budget = (content.pop(name) for name in ("batch", "rank", "budget"))
        source = OwnSource(**content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LlmoError("own problem", str(file), f"a file that `llmo train --model` wrote ({error})") from error
    # The smallest budget of a train instance has to pay it.
    own = with_affordable_validation(source.open().problem(batch, rank, budget / BUDGETS))
    return replace(own, budget=budget)


def example_own(shape: ModelShape = EXAMPLE) -> OwnProblem:
    """A problem that every Python carries: which part of the library a docstring belongs to; some 160 optimizer steps.

    Args:
        shape: Of the model.
    """
    own = fresh_model("docstrings", model_config(shape), "classification")
    training, *held_out = (library_examples("topics", "train", split) for split in ("training", "validation", "test"))
    validation, test = (split[:64] for split in held_out)
    data = OwnData("classification", (training,), validation, test, ("text", "label"), ())
    encoded = encode(data, own.tokenizer, own.config, 24)
    model = own.build(encoded.labels, 0)
    problem = Opened(own.name, model, own.tokenizer, own.start, data, encoded).problem(4, 0, 1.0)
    cost = own_cost(problem)
    return replace(problem, budget=2 * STEPS * (16 * cost.train + len(validation) * cost.forward))
