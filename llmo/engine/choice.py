"""Which executor trains a population, by rules that `llmo throughput` has measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from llmo.engine.compiled import Compiled, has_compiler
from llmo.engine.distributed import distributed
from llmo.engine.executors import Executor
from llmo.engine.lora import BatchedLora
from llmo.engine.ranks import Ranks
from llmo.engine.single import Accumulated, Single, SingleSettings, prepare
from llmo.engine.vmapped import Vmapped
from llmo.errors import LlmoError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXECUTORS = ("single", "batched", "compiled")
LANES = 8, 64
"""Fewest and most lanes of `batched`."""
SMALL_TOKENS = 128
"""Tokens of an optimizer step above which more than the fewest lanes train no faster, whatever the size."""
WORK = 170_000_000
"""Parameters x tokens of all its lanes together, from which more of them train no faster (`llmo throughput`)."""
COMPILED_FROM = 10_000
"""Environment steps from which compiling, about a minute a process on a cold cache, is paid back."""


def good_lanes(parameters: int, tokens: int) -> int:
    """How many rows `batched` trains side by side: many where Python takes the time, few where the cache does.

    Args:
        parameters: Of one model.
        tokens: In one row's optimizer step.
    """
    if tokens > SMALL_TOKENS:
        return LANES[0]
    return max(LANES[0], min(LANES[1], WORK // (parameters * tokens)))


def population_executor(env_steps: int) -> str:
    """The executor that takes a population through so many environment steps soonest, compiling included."""
    return "compiled" if env_steps >= COMPILED_FROM and has_compiler() else "batched"


def make_executor(
    model: PreTrainedModel,
    replicas: int,
    name: str | None,
    frozen: bool,
    device: torch.device,
    single: SingleSettings,
    ranks: Ranks | None,
) -> Executor:
    """The executor of a population.

    Args:
        model: Its architecture; with `frozen`, the weights that all share. On the CPU; the executor takes it over.
        replicas: N.
        name: ``single`` trains one replica after another, ``batched`` all in one program, ``compiled`` the same program
            through `torch.compile`; None chooses ``single`` for one replica and ``batched`` for more.
        frozen: Whether rows hold LoRA factors on a frozen base.
        device: Where it runs.
        single: How ``single`` trains one large model.
        ranks: The processes that train it together; None for this one alone.

    Raises:
        LlmoError: No such executor, or one that cannot do what is asked.
    """
    name = name or ("single" if replicas == 1 or single != SingleSettings() else "batched")
    if name not in EXECUTORS:
        raise LlmoError("executor", name, EXECUTORS)
    if ranks is not None:
        if name != "single" or replicas != 1:
            raise LlmoError("run under `accelerate launch`", f"{name}, {replicas} replicas", "single, 1 replica")
        return distributed(model, frozen, ranks)
    # mypy does not know `PreTrainedModel.to`.
    here: Any = model.to(device)  # type: ignore[arg-type]
    if name == "single":
        prepare(here, single, device)
        if not frozen:
            return Single(here, single.accumulation)
        lora = BatchedLora(here, lanes=1)
        return Accumulated(lora, single.accumulation) if single.accumulation > 1 else lora
    if single != SingleSettings():
        raise LlmoError("executor", name, "single with these settings of precision, accumulation and checkpointing")
    program = BatchedLora(here) if frozen else Vmapped(here)
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
