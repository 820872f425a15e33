"""What is added to a model's embedded inputs, as noise or against it; given from outside, as dropout masks are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Addition:
    """Adds to what the input embedding gives.

    Args:
        model: The model whose input embedding gets the hook; one without one adds nothing.

    Attributes:
        added: [B, T, width]; None for nothing. Set it just before the forward pass.
    """

    def __init__(self, model: Any) -> None:
        self.added: Tensor | None = None
        embedding = model.get_input_embeddings()
        if isinstance(embedding, nn.Module):
            embedding.register_forward_hook(self._hook)

    def _hook(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output if self.added is None else output + self.added
