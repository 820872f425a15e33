"""`llmo.improve`: the same as the command, from Python, objects in and out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llmo.engine.own_models import HEADED, check_fit, context_of, give_padding, own_kind
from llmo.engine.ranks import first_rank
from llmo.errors import LlmoError
from llmo.evaluation.own.improve import Improvement, improve_model
from llmo.evaluation.own.order import Wishes
from llmo.evaluation.own.report import write_report
from llmo.hyperparameters import Start
from llmo.kinds import auto_class, kind_of
from llmo.mdp.own_source import Opened
from llmo.tasks.own.columns import OWN_TASKS, OwnTask
from llmo.tasks.own.data import data_of
from llmo.tasks.own.encode import encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def improve(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    train: Iterable[Any],
    valid: Iterable[Any] | None = None,
    test: Iterable[Any] | None = None,
    *,
    task: OwnTask,
    budget: str,
    columns: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    compare: bool = False,
    resume: bool = False,
    say: Callable[[str], None] = print,
    **wishes: Any,
) -> Improvement:
    """Improve a model on data, an agent deciding on the way.

    Args:
        model: A Hugging Face model with the head that the task needs; it stays as it is.
        tokenizer: Its tokenizer, a fast one.
        train: Records by column, such as dicts or a `datasets.Dataset`; or texts.
        valid: The same, to decide by; without it a part of `train` is cut off.
        test: The same, to score on; without it a part of `train` is cut off.
        task: ``causal_lm``, ``classification``, ``regression``, ``tagging`` or ``seq2seq``.
        budget: How much may be spent, such as ``10min``, ``3epochs`` or ``2e14flops``.
        columns: Column by role, such as ``{"text": "body", "label": "topic"}``; by default guessed and said.
        out: Folder for the model, the decisions and the report; by default nothing is kept.
        compare: Whether to train by the usual recipes too, at the same budget.
        resume: Whether to continue the run in `out`.
        say: Gets what should be said aloud.
        **wishes: See `Wishes`: `agent`, `policy`, `batch`, `lora`, `keep_adapter`, `seed`, `device`, `single`.

    Returns:
        The improved model and what it took.

    Raises:
        LlmoError: Something about the model, the data or a number.
    """
    if task not in OWN_TASKS:
        raise LlmoError("task", task, OWN_TASKS)
    wanted = Wishes(budget, **wishes)
    if not getattr(tokenizer, "is_fast", False):
        raise LlmoError("tokenizer", type(tokenizer).__name__, "a fast one")
    kind = own_kind(task, bool(getattr(model.config, "is_encoder_decoder", False)))
    if kind_of(model) != kind:
        raise LlmoError(f"model for {task}", type(model).__name__, f"one of {auto_class(kind).__name__}")
    check_fit(type(model).__name__, task, kind, model.config)
    if resume and out is None:
        raise LlmoError("resume", resume, "False without a folder that holds a run, given by out")
    if wanted.keep_adapter and out is None:
        raise LlmoError("keep_adapter", True, "False without a folder to keep it in, given by out")
    data = data_of(task, train, valid, test, columns, wanted.seed)
    # Weights are trained in float32, whatever the passes compute in.
    model, tokenizer = copy.deepcopy(model).float(), copy.deepcopy(tokenizer)
    say = say if first_rank() else lambda text: None
    give_padding(tokenizer, model.config)
    encoded = encode(data, tokenizer, model.config, context_of(model.config))
    for note in (*data.notes, *encoded.notes):
        say(note)
    outputs = max(1, len(encoded.labels))
    if task in HEADED and model.config.num_labels != outputs:
        raise LlmoError("num_labels of the model", model.config.num_labels, f"{outputs}, as the data have")
    if encoded.labels:
        model.config.id2label = dict(enumerate(encoded.labels))
        model.config.label2id = {label: place for place, label in enumerate(encoded.labels)}
    start: Start = "pretrained" if model.config._name_or_path else "scratch"
    order = wanted.order(Opened(type(model).__name__, model, tokenizer, start, data, encoded))
    with nullcontext(out) if out is not None else TemporaryDirectory() as folder:
        result = improve_model(order, Path(folder), resume=resume, against=compare, say=say)
        if out is not None and first_rank():
            write_report(result, Path(folder), f"How {type(model).__name__} was improved", {})
    return result
