"""The processes that train one model together, as `accelerate launch` starts them: every rank runs the same program."""

from __future__ import annotations

import atexit
import os
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llmo.engine.single import SingleSettings
from llmo.errors import LlmoError

T = TypeVar("T")
TIMEOUT = timedelta(seconds=60)
"""How long a rank waits for the others, which do the same work at the same time."""
LAST_SECONDS = 0.2
"""How long a rank's communication threads have at its end."""


def launched() -> bool:
    """Whether this process is one of several that `accelerate launch` has started."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def first_rank() -> bool:
    """Whether this process is the one that prints and writes files."""
    return not launched() or os.environ.get("RANK") == "0"


def agreed(value: T) -> T:
    """What the first rank has, on every rank, by pickling; without several that train, the value itself."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        # DTensor's caches still hold the group, so its threads live on. One that lets go of a tensor waits for the GIL;
        # if the interpreter ended meanwhile, Python (before 3.14) would end that thread inside C++: an abort.
        time.sleep(LAST_SECONDS)


class Ranks:
    """The processes that train one model together.

    Args:
        settings: What the command asks for; bfloat16 may also come from `accelerate launch --mixed_precision`.

    Attributes:
        settings: As they are used.
        count: How many processes.
        index: Which one this is.
        device: Its device.
        sharded: Whether a rank holds a shard of the model.

    Raises:
        LlmoError: They were started in a way that is not supported.
    """

    def __init__(self, settings: SingleSettings) -> None:
        from accelerate import Accelerator, InitProcessGroupKwargs

        self.sharded = os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
        version = os.environ.get("FSDP_VERSION", "1")
        if self.sharded and version != "2":
            raise LlmoError("accelerate's --fsdp_version", version, "2")
        # Otherwise transformers leaves the weights of what it loads on the other ranks empty, a teacher's too.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        try:
            self._accelerator = Accelerator(
                cpu=not torch.accelerator.is_available(),
                mixed_precision="bf16" if settings.precision == "bfloat16" else None,
                kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
            )
        except ValueError as error:
            raise LlmoError("precision", settings.precision, f"that of the process's other runs ({error})") from error
        atexit.register(_leave)
        kind, precision = self._accelerator.distributed_type.value, self._accelerator.mixed_precision
        if kind not in ("MULTI_CPU", "MULTI_GPU", "FSDP"):
            raise LlmoError("accelerate's kind of training", kind, "DDP or FSDP; ACCELERATE_USE_CPU=true for CPUs")
        if precision not in ("no", "bf16"):
            raise LlmoError("accelerate's --mixed_precision", precision, ("no", "bf16"))
        self.settings = replace(settings, precision="bfloat16" if precision == "bf16" else "float32")
        self.count, self.index = self._accelerator.num_processes, self._accelerator.process_index
        # Where there is only one CPU, `cpu:0` is another name that makes torch copy.
        self.device = torch.device("cpu") if kind == "MULTI_CPU" else self._accelerator.device
        if self.sharded:
            plugin = self._sharding(kind)
            self.settings = replace(
                self.settings, checkpointing=settings.checkpointing or plugin.activation_checkpointing
            )

    def _sharding(self, kind: str) -> Any:
        """Accelerate's settings of FSDP."""
        from accelerate.utils import FullyShardedDataParallelPlugin

        state = self._accelerator.state
        if kind == "MULTI_CPU":
            # accelerate gives its plugin to GPUs only; what the plugin says holds for CPUs as well.
            state.fsdp_plugin = FullyShardedDataParallelPlugin()
            if state.mixed_precision == "bf16":
                state.fsdp_plugin.set_mixed_precision("bf16")
        plugin = state.fsdp_plugin
        if plugin.mixed_precision_policy is not None:
            # The loss is computed in float32.
            plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, output_dtype=None)
        return plugin

    def total(self, part: Tensor) -> Tensor:
        """Sum over the ranks."""
        result: Tensor = self._accelerator.reduce(part, "sum")
        return result

    def mean(self, part: Tensor) -> Tensor:
        """Mean over the ranks."""
        result: Tensor = self._accelerator.reduce(part, "mean")
        return result

    def gather(self, part: Tensor) -> Tensor:
        """The ranks' equal shares [n, b], side by side in their order: [n, B]."""
        result: Tensor = self._accelerator.gather(part.T.contiguous()).T
        return result

    def share(self, inputs: Tensor) -> Tensor:
        """This rank's sequences of [n, B, ...]; the last is repeated until all ranks have as many."""
        each = -(-inputs.shape[1] // self.count)
        places = torch.arange(each * self.index, each * (self.index + 1)).clamp(max=inputs.shape[1] - 1)
        return inputs[:, places.to(inputs.device)]

    def replicate(self, model: nn.Module) -> Any:
        """The model in DDP."""
        return self._accelerator.prepare_model(model)

    def shard(self, model: nn.Module) -> Any:
        """Share a model's parameters out by FSDP2, in place."""
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        return fsdp2_prepare_model(self._accelerator, model)
