"""What a run delivers, back in the Hugging Face model, and the model in a folder that `from_pretrained` loads."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmo.engine.adapters import merge
from llmo.engine.layout import FactorLayout, Layout
from llmo.engine.models import no_progress_bar
from llmo.engine.structure import WHOLE_MODEL, Structure
from llmo.engine.structures import Structures

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@torch.no_grad()
def improved_model(
    model: PreTrainedModel, delivered: Tensor, rank: int, structure: Structure = WHOLE_MODEL
) -> PreTrainedModel:
    """A copy of a model with what a run has delivered, as small as that is.

    Args:
        model: What training started from.
        delivered: Its new weights [P], or with a rank the factors [Q] that are merged into its own.
        rank: Of the factors; 0 for all weights.
        structure: Which parts of the model are left.
    """
    row = delivered.cpu()
    if rank:
        layout = FactorLayout(model).base
        padded = torch.zeros(1, layout.width)
        padded[0, : layout.size] = layout.flatten(model)
        row = merge(layout, padded, row[None])[0]
    else:
        layout = Layout(model)
    result = copy.deepcopy(model)
    if structure != WHOLE_MODEL:
        structures = Structures(model, layout)
        result, kept = structures.build(structure), row[structures.places(structure)]
        if model.can_generate():
            result.generation_config = model.generation_config
        layout = Layout(result)
        row = torch.nn.functional.pad(kept, (0, layout.width - layout.size))
    views = layout.unflatten(row)
    for name, parameter in result.named_parameters():
        parameter.copy_(views[name])
    return result.eval()


def save_model(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a model, or an adapter alone, and its tokenizer as a whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    # PEFT would ask the hub whether the vocabulary has grown, which it has not.
    given = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    with no_progress_bar():
        model.save_pretrained(temporary, **given)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
