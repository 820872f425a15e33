"""The kinds of model there are, and how each is called: rows of token ids in, logits by position out.

One row of ids and one number of positions say it all, so that executors need to know no kind:

    causal_lm       ids [B, T]                              logits of the next token at each of T positions
    classification  ids [B, T], PADDING at the end          logits of the classes, one position
    tagging         ids [B, T], PADDING at the end          logits of the tags at each of T positions
    seq2seq         source [B, T - P], PADDING at its end,  logits of the next target token at each of P positions
                    then decoder inputs [B, P]
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from llmo.errors import LlmoError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Kind = Literal["causal_lm", "classification", "tagging", "seq2seq"]
PADDING = -1
"""Token id of a place that holds nothing, in the rows of ids that a model is given."""
IGNORED = -100
"""Label of a position that nothing is to be predicted at."""

_AUTO = {
    "causal_lm": "AutoModelForCausalLM",
    "classification": "AutoModelForSequenceClassification",
    "tagging": "AutoModelForTokenClassification",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
_ENDINGS = {
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "tagging",
    "ForConditionalGeneration": "seq2seq",
}


def auto_class(kind: Kind) -> Any:
    """The `AutoModelFor...` class of a kind."""
    import transformers

    return getattr(transformers, _AUTO[kind])


def kind_of(model: PreTrainedModel) -> Kind:
    """What a model is, by the name of its class.

    Raises:
        LlmoError: It is none of the kinds.
    """
    name = type(model).__name__
    for ending, kind in _ENDINGS.items():
        if name.endswith(ending):
            return kind  # type: ignore[return-value]
    raise LlmoError("model class", name, [f"...{ending}" for ending in _ENDINGS])


def sees_ahead(config: PretrainedConfig) -> bool:
    """Whether a model without a decoder sees what follows a token, as those that fill in masks do."""
    from transformers import AutoModelForMaskedLM

    if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False):
        return False
    return type(config) in AutoModelForMaskedLM._model_mapping


def key_values(config: PretrainedConfig) -> tuple[int, int, int]:
    """Blocks, heads of keys and values in each, and the width of a head, of a decoder."""
    heads: int = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, getattr(config, "num_key_value_heads", heads), width


@lru_cache(maxsize=16)
def _causal(tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    mask = torch.full((tokens, tokens), torch.finfo(torch.float32).min).triu(1)[None, None]
    return mask.to(device), torch.arange(tokens, device=device)[None]


class Interface:
    """How a model is called.

    Args:
        config: Its configuration.
        kind: What it is.

    Attributes:
        outputs: C, how many logits each position has.
    """

    def __init__(self, config: PretrainedConfig, kind: Kind) -> None:
        self.kind = kind
        labelled = kind in ("classification", "tagging")
        self.outputs = int(config.num_labels if labelled else config.vocab_size)  # type: ignore[arg-type]
        self._padding: int = getattr(config, "pad_token_id", None) or 0

    def arguments(self, inputs: Tensor, positions: int) -> dict[str, Any]:
        """What the model is called with, the ordinary way.

        Args:
            inputs: Ids [B, T].
            positions: P, how many predictions a sequence is asked for.
        """
        if self.kind == "causal_lm":
            return {"input_ids": inputs, "use_cache": False}
        source, target = self._split(inputs, positions)
        given = {"input_ids": self._filled(source), "attention_mask": (source != PADDING).long()}
        return given if target is None else {**given, "decoder_input_ids": self._filled(target), "use_cache": False}

    def batchable(self, inputs: Tensor, positions: int) -> dict[str, Any]:
        """The same with masks and positions as `torch.func.vmap` can batch them: what the classes would build."""
        source, target = self._split(inputs, positions)
        if target is None:
            # Only decoders are trained in populations: what stands behind a position is hidden from it in any case.
            mask, places = _causal(source.shape[-1], source.device)
            ids = source if self.kind == "causal_lm" else self._filled(source)
            return {"input_ids": ids, "attention_mask": mask, "position_ids": places, "use_cache": False}
        hidden = torch.where(source == PADDING, torch.finfo(torch.float32).min, 0.0)[:, None, None]
        return {
            "input_ids": self._filled(source),
            "attention_mask": hidden,
            "decoder_input_ids": self._filled(target),
            "decoder_attention_mask": _causal(positions, target.device)[0],
            "use_cache": False,
        }

    def logits(self, output: Any) -> Tensor:
        """Logits [B, P, C] from what the model gave."""
        logits: Tensor = output.logits
        return logits[:, None] if self.kind == "classification" else logits

    def hidden_tokens(self, tokens: int, positions: int) -> int:
        """How many of T tokens the blocks see that dropout acts on; of an encoder and a decoder, the encoder's."""
        return tokens - positions if self.kind == "seq2seq" else tokens

    def _split(self, inputs: Tensor, positions: int) -> tuple[Tensor, Tensor | None]:
        if self.kind != "seq2seq":
            return inputs, None
        return inputs[..., :-positions], inputs[..., -positions:]

    def _filled(self, ids: Tensor) -> Tensor:
        return torch.where(ids == PADDING, self._padding, ids)
