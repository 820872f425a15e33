"""A user's own model and its tokenizer: from a folder, from the hub, or small and fresh; and back to a folder.

Nothing is loaded that could run: no pickle (`use_safetensors=True`), no code of a model's own
(`trust_remote_code=False`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmo.engine.models import ModelShape, model_config, no_progress_bar
from llmo.errors import LlmoError
from llmo.hyperparameters import Start
from llmo.kinds import Kind, auto_class, sees_ahead
from llmo.tasks.own.columns import OwnTask
from llmo.tasks.text import load_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

FRESH = re.compile(r"scratch:(\d{1,4})x(\d{1,3})")
"""A fresh Llama of some width and depth, with the package's tokenizer."""
HEADED = ("classification", "regression", "tagging")
"""Tasks that a model has a head of its own for."""
PAD, END = "\0", "\4"
"""Bytes that no text has, by which the package's tokenizer pads and ends."""
CONTEXT = 512
"""Tokens that a model is given where its configuration does not say how many it takes."""


@dataclass(frozen=True)
class OwnModel:
    """A model that is to be improved.

    Attributes:
        name: As it was asked for.
        config: Its configuration, for the task.
        tokenizer: Its tokenizer.
        start: From scratch, or pre-trained.
        kind: How it is called.
    """

    name: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerFast
    start: Start
    kind: Kind

    @property
    def context(self) -> int:
        """Most tokens it takes."""
        return context_of(self.config)

    def build(self, labels: tuple[str, ...] | None, seed: int) -> PreTrainedModel:
        """The model itself, in float32; a head that is new has weights by the seed.

        Args:
            labels: Names of the classes or tags; none for a number; None where the task has none.
            seed: Of what is fresh.

        Raises:
            LlmoError: The folder lacks weights, or they cannot be loaded.
        """
        config = self.config
        if labels is not None:
            config.num_labels = max(1, len(labels))
            if labels:
                config.id2label = dict(enumerate(labels))
                config.label2id = {label: place for place, label in enumerate(labels)}
        make = auto_class(self.kind)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.start == "scratch":
                model = make.from_config(config, attn_implementation="eager", trust_remote_code=False)
            else:
                model = _load(lambda **given: make.from_pretrained(self.name, config=config, **given), self.name)
        result: PreTrainedModel = model.eval()
        return result


def context_of(config: Any) -> int:
    """Most tokens that a model of a configuration takes."""
    names = ("max_position_embeddings", "n_positions", "max_sequence_length")
    found = [getattr(config, name, None) for name in names]
    return int(next((value for value in found if isinstance(value, int) and value > 0), CONTEXT))


def open_model(name: str, task: OwnTask) -> OwnModel:
    """Find a model and its tokenizer; its weights are loaded later.

    Args:
        name: A folder, a name on the hub, or ``scratch:WIDTHxDEPTH`` for a small fresh Llama.
        task: What it is to learn.

    Raises:
        LlmoError: There is no such model, it asks for code of its own, or its class cannot learn the task.
    """
    if fresh := FRESH.fullmatch(name):
        return _fresh(name, ModelShape(int(fresh[1]), int(fresh[2])), task)
    if name.startswith("scratch:"):
        raise LlmoError("model", name, "scratch:WIDTHxDEPTH, such as scratch:64x2")
    from transformers import AutoConfig, AutoTokenizer

    folder = Path(name)
    if folder.exists():
        _check_folder(folder)
    elif folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise LlmoError("model", name, "a folder that is there, a name on the hub, or scratch:WIDTHxDEPTH")
    config = _load(lambda **given: AutoConfig.from_pretrained(name, **_only_trust(given)), name)
    kind = own_kind(task, bool(getattr(config, "is_encoder_decoder", False)))
    if type(config) not in auto_class(kind)._model_mapping:
        raise LlmoError(
            f"model for {task}", f"{name} ({config.model_type})", f"a model that {auto_class(kind).__name__} has"
        )
    check_fit(name, task, kind, config)
    spaced = {"add_prefix_space": True} if task == "tagging" else {}
    tokenizer = _load(lambda **given: AutoTokenizer.from_pretrained(name, **spaced, **_only_trust(given)), name)
    if not tokenizer.is_fast:
        raise LlmoError("tokenizer", type(tokenizer).__name__, "a fast one, with a tokenizer.json")
    give_padding(tokenizer, config)
    return OwnModel(name, config, tokenizer, "pretrained", kind)


def give_padding(tokenizer: Any, config: Any) -> None:
    """Let a tokenizer and a configuration that have no padding token use another one."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def check_fit(name: str, task: OwnTask, kind: Kind, config: Any) -> None:
    """Refuse models whose class takes a task that they cannot learn.

    Args:
        name: Of the model.
        task: What it is to learn.
        kind: How it is called.
        config: Its configuration.

    Raises:
        LlmoError: It sees what it should predict, or has a decoder too many.
    """
    two = bool(getattr(config, "is_encoder_decoder", False))
    if kind in ("classification", "tagging") and two:
        raise LlmoError(
            f"model for {task}", f"{name} ({config.model_type})", "one without a decoder beside its encoder"
        )
    if kind == "causal_lm" and sees_ahead(config):
        raise LlmoError(
            f"model for {task}", f"{name} ({config.model_type})", "a decoder, which does not see what follows"
        )


def own_kind(task: OwnTask, encoder_decoder: bool) -> Kind:
    """The kind of model that learns a task; one without an encoder continues the source with the target."""
    match task:
        case "classification" | "regression":
            return "classification"
        case "tagging":
            return "tagging"
        case "seq2seq" if encoder_decoder:
            return "seq2seq"
    return "causal_lm"


def _fresh(name: str, shape: ModelShape, task: OwnTask) -> OwnModel:
    if shape.width % 4 or not shape.width or not shape.depth:
        raise LlmoError("model", name, "a width that is a multiple of 4, and at least one block")
    return fresh_model(name, model_config(shape), task)


def fresh_model(name: str, config: Any, task: OwnTask) -> OwnModel:
    """A model that does not exist yet, with the package's tokenizer.

    Args:
        name: What it is called.
        config: Its configuration, for the package's vocabulary; is completed.
        task: What it is to learn.
    """
    from transformers import PreTrainedTokenizerFast

    inner = load_tokenizer()
    (pad,), (end,) = inner.encode(PAD).tokens, inner.encode(END).tokens
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=pad, eos_token=end)
    config.max_position_embeddings = CONTEXT
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    return OwnModel(name, config, tokenizer, "scratch", own_kind(task, bool(config.is_encoder_decoder)))


def _check_folder(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError as error:
        raise LlmoError("model", str(folder), "a folder with config.json") from error
    except (OSError, ValueError) as error:
        raise LlmoError("model", str(folder / "config.json"), f"a JSON object ({error})") from error
    if not isinstance(config, dict):
        raise LlmoError("model", str(folder / "config.json"), "a JSON object")
    if "auto_map" in config:
        raise LlmoError(
            "model", str(folder), "one whose class transformers has; this folder asks to run code of its own"
        )
    if not list(folder.glob("*.safetensors")):
        raise LlmoError("model", str(folder), "a folder with weights as safetensors")


def _only_trust(given: dict[str, Any]) -> dict[str, Any]:
    return {"trust_remote_code": given["trust_remote_code"]}


def _load(load: Any, name: str) -> Any:
    """Load something of transformers, which raises whatever its parts raise."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    given = {"attn_implementation": "eager", "trust_remote_code": False, "use_safetensors": True}
    try:
        with no_progress_bar():
            return load(dtype=torch.float32, **given)
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise LlmoError("model", name, f"one that transformers can load ({type(error).__name__}: {told})") from error
    finally:
        logging.set_verbosity(level)
