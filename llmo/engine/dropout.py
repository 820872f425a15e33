"""Dropout on the outputs of a model's blocks, with masks that are given from outside.

Masks come from counter streams, so they do not depend on the population's size; a forward hook multiplies them in, so
the Hugging Face classes stay as they are.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llmo.engine.streams import DROPOUT, uniform


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformer: the members of its longest `nn.ModuleList` that lies in no other."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [list(module) for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    return max(outer, key=len)


class BlockDropout:
    """Multiplies each block's output by its mask.

    Args:
        model: The model whose blocks get the hooks.

    Attributes:
        masks: One tensor a block, [L, B, T, width]; None for no dropout. Set it just before the forward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self.masks: Tensor | None = None
        for index, block in enumerate(blocks(model)):
            block.register_forward_hook(self._hook(index))

    def _hook(self, index: int):  # type: ignore[no-untyped-def]
        def hook(_module, _inputs, output):  # type: ignore[no-untyped-def]
            if self.masks is None:
                return output
            if isinstance(output, tuple):
                return (output[0] * self.masks[index], *output[1:])
            return output * self.masks[index]

        return hook


def dropout_masks(
    seeds: NDArray[np.uint64], steps: NDArray[np.int64], rates: NDArray[np.float64], shape: tuple[int, ...]
) -> Tensor | None:
    """Inverted-dropout masks, [n, *shape]; None when every rate is zero.

    Args:
        seeds: One seed a row, [n].
        steps: One counter a row, [n].
        rates: Probability of dropping an element, [n], in [0, 1).
        shape: Shape of one row's masks: blocks, sequences, tokens, width.
    """
    rows = np.flatnonzero(rates)
    if not len(rows):
        return None
    masks = torch.ones(len(rates), *shape)
    u = uniform(seeds[rows], steps[rows], DROPOUT, int(np.prod(shape)))
    kept = (u >= rates[rows, None]) / (1 - rates[rows, None])
    masks[torch.from_numpy(rows)] = torch.from_numpy(kept.astype(np.float32)).view(len(rows), *shape)
    return masks
