"""The models an instance trains: small Llamas and GPT-2s, built from a shape and a seed or loaded from the package.

The Hugging Face classes are used unmodified, with eager attention: it is what the FLOP counter can see and what
`torch.func.vmap` runs fastest at these sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from llmo.errors import LlmoError

if TYPE_CHECKING:
    from transformers import GPT2Config, LlamaConfig, PreTrainedModel, T5Config

PRETRAINED = Path(__file__).parents[1] / "tasks" / "pretrained"
VOCABULARY = 512

Family = Literal["llama", "gpt2", "t5"]


@dataclass(frozen=True, order=True)
class ModelShape:
    """Width and depth of a model, and of which family it is.

    Attributes:
        width: Hidden size; a multiple of 4 (two heads of an even size, as rotary positions need).
        depth: Number of decoder blocks, at least 1.
        family: ``llama``, ``gpt2``, or ``t5``, which has as many blocks in its encoder as in its decoder.
    """

    width: int
    depth: int
    family: Family = "llama"

    def __str__(self) -> str:
        return f"{'' if self.family == 'llama' else f'{self.family}-'}{self.width}x{self.depth}"


def llama_config(shape: ModelShape) -> LlamaConfig:
    """The configuration of the Llama of one shape: two heads, SwiGLU of about 8/3 width, tied embeddings."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        intermediate_size=8 * round(shape.width / 3),
        num_hidden_layers=shape.depth,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=shape.width**-0.5 / 2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        attn_implementation="eager",  # type: ignore[call-arg]
    )


def gpt2_config(shape: ModelShape) -> GPT2Config:
    """The configuration of the GPT-2 of one shape: two heads, no dropout of its own, tied embeddings."""
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=shape.width,
        n_layer=shape.depth,
        n_head=2,
        n_positions=256,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=shape.width**-0.5 / 2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        attn_implementation="eager",  # type: ignore[call-arg]
    )


def t5_config(shape: ModelShape) -> T5Config:
    """The configuration of the T5 of one shape: two heads, no dropout of its own, tied embeddings."""
    from transformers import T5Config

    return T5Config(
        vocab_size=VOCABULARY,
        d_model=shape.width,
        d_kv=shape.width // 2,
        d_ff=8 * round(shape.width / 3),
        num_layers=shape.depth,
        num_heads=2,
        dropout_rate=0.0,
        feed_forward_proj="gated-silu",
        eos_token_id=None,
        pad_token_id=None,
        attn_implementation="eager",  # type: ignore[call-arg]
    )


def model_config(shape: ModelShape) -> LlamaConfig | GPT2Config | T5Config:
    """The configuration of the model of one shape."""
    match shape.family:
        case "llama":
            return llama_config(shape)
        case "gpt2":
            return gpt2_config(shape)
    return t5_config(shape)


def build_model(shape: ModelShape, seed: int) -> PreTrainedModel:
    """A freshly initialised float32 model; the same shape and seed give the same weights.

    The global random state of torch is left as it was.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            model_config(shape), attn_implementation="eager", trust_remote_code=False
        )
    return model


def make_plain(model: nn.Module) -> None:
    """Switch off what would make a model's numbers depend on how it is run.

    That is dropout of its own, whose random numbers nobody counts, in modules and in rates that are numbers; and
    an embedding's row that gets no gradient, which `torch.func.vmap` knows nothing of. Padding gets none in any case.
    """
    for module in model.modules():
        rates = [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]
        for name in rates:
            setattr(module, name, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.Embedding):
            module.padding_idx = None


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Around what transformers loads or saves, for which it shows a bar of its own."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


@lru_cache(maxsize=64)
def load_pretrained(name: str) -> PreTrainedModel:
    """A model shipped with the package, in float32, in evaluation mode; shared, so do not change it.

    Args:
        name: A folder of `llmo/tasks/pretrained`, such as ``"base-prose-24x2"``.

    Raises:
        LlmoError: There is no such folder.
    """
    from transformers import AutoModelForCausalLM

    names = sorted(path.name for path in PRETRAINED.iterdir() if (path / "config.json").is_file())
    if name not in names:
        raise LlmoError("pre-trained model", name, names)
    with no_progress_bar():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            PRETRAINED / name,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    return model.eval()
