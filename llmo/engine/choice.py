"""Which executor trains a population, by rules that `llmo throughput` has measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmo.engine.compiled import Compiled
from llmo.engine.executors import Executor
from llmo.engine.lora import BatchedLora
from llmo.engine.single import Single
from llmo.engine.vmapped import Vmapped
from llmo.errors import LlmoError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXECUTORS = ("single", "batched", "compiled")


def make_executor(model: PreTrainedModel, replicas: int, name: str | None, frozen: bool) -> Executor:
    """The executor of a population.

    Args:
        model: Its architecture; with `frozen`, the weights that all share.
        replicas: N.
        name: ``single`` trains one replica after another, ``batched`` all in one program, ``compiled`` the same program
            through `torch.compile`; None chooses ``single`` for one replica and ``batched`` for more.
        frozen: Whether rows hold LoRA factors on a frozen base.

    Raises:
        LlmoError: No such executor.
    """
    name = name or ("single" if replicas == 1 else "batched")
    if name not in EXECUTORS:
        raise LlmoError("executor", name, EXECUTORS)
    if name == "single":
        return BatchedLora(model, lanes=1) if frozen else Single(model)
    program = BatchedLora(model) if frozen else Vmapped(model)
    return Compiled(program) if name == "compiled" else program


def valid_device(name: str) -> torch.device:
    """A device by name.

    Raises:
        LlmoError: This machine has no such device.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise LlmoError("device", name, found) from error
    return device
