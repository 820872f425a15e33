"""What is added to a model's embedded inputs, as noise or against it; given from outside, as dropout masks are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def input_embedding(model: Any) -> nn.Module | None:
    """The layer that tokens are embedded with; None for a model that reads something else."""
    try:
        found = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None


def source_embedding(model: Any) -> nn.Module | None:
    """The layer that the tokens of a source are embedded with: of an encoder and a decoder, the encoder's."""
    try:
        encoded = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
        return input_embedding(model.get_encoder() if encoded else model)
    except (AttributeError, NotImplementedError):
        return None


class Addition:
    """Adds to what the input embedding gives.

    Args:
        model: The model whose input embedding gets the hook; one without one adds nothing.

    Attributes:
        added: [B, T, width]; None for nothing. Set it just before the forward pass.
    """

    def __init__(self, model: Any) -> None:
        self.added: Tensor | None = None
        embedding = input_embedding(model)
        if embedding is not None:
            embedding.register_forward_hook(self._hook)

    def _hook(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output if self.added is None else output + self.added
