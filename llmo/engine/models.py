"""The models an instance trains: small Llamas, built from a shape and a seed or loaded from the package.

The Hugging Face classes are used unmodified, with eager attention: it is what the FLOP counter can see and what
`torch.func.vmap` runs fastest at these sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llmo.errors import LlmoError

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

PRETRAINED = Path(__file__).parents[1] / "tasks" / "pretrained"
VOCABULARY = 512


@dataclass(frozen=True, order=True)
class ModelShape:
    """Width and depth of a Llama.

    Attributes:
        width: Hidden size; a multiple of 4 (two heads of an even size, as rotary positions need).
        depth: Number of decoder blocks, at least 1.
    """

    width: int
    depth: int

    def __str__(self) -> str:
        return f"{self.width}x{self.depth}"


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


def build_model(shape: ModelShape, seed: int) -> LlamaForCausalLM:
    """A freshly initialised float32 Llama; the same shape and seed give the same weights.

    The global random state of torch is left as it was.
    """
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(llama_config(shape))


@lru_cache(maxsize=64)
def load_pretrained(name: str) -> LlamaForCausalLM:
    """A model shipped with the package, in float32, in evaluation mode; shared, so do not change it.

    Args:
        name: A folder of `llmo/tasks/pretrained`, such as ``"base-prose-24x2"``.

    Raises:
        LlmoError: There is no such folder.
    """
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    names = sorted(path.name for path in PRETRAINED.iterdir() if (path / "config.json").is_file())
    if name not in names:
        raise LlmoError("pre-trained model", name, names)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = LlamaForCausalLM.from_pretrained(
            PRETRAINED / name,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    finally:
        if bars:
            logging.enable_progress_bar()
    return model.eval()
