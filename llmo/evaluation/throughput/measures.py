"""Everything that `llmo throughput` measures, in order, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llmo.errors import LlmoError
from llmo.evaluation.throughput.compiling import compile_time
from llmo.evaluation.throughput.environment import mixed_population, whole_environment
from llmo.evaluation.throughput.gpu import gpu_population
from llmo.evaluation.throughput.limits import limits
from llmo.evaluation.throughput.memory import env_step_memory, lora_memory
from llmo.evaluation.throughput.menus import mixed_menu
from llmo.evaluation.throughput.populations import full_replicas, long_batches, lora_replicas
from llmo.evaluation.throughput.ppo import ppo_training
from llmo.evaluation.throughput.row import Row
from llmo.evaluation.throughput.scaling import two_processes
from llmo.evaluation.throughput.single_run import env_step, snapshot
from llmo.evaluation.throughput.steering import improve_steps, trainer_callback
from llmo.evaluation.throughput.sweep import sweep
from llmo.evaluation.throughput.timing import Effort

MEASURES: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "env-step": env_step,
    "env-step-memory": env_step_memory,
    "snapshot": snapshot,
    "full-replicas": full_replicas,
    "mixed-menu": mixed_menu,
    "long-batches": long_batches,
    "lora-replicas": lora_replicas,
    "lora-memory": lora_memory,
    "whole-environment": whole_environment,
    "mixed-population": mixed_population,
    "two-processes": two_processes,
    "ppo-training": ppo_training,
    "trainer-callback": trainer_callback,
    "improve": improve_steps,
    "compile": compile_time,
    "limits": limits,
    "gpu-population": gpu_population,
    "sweep": sweep,
}
"""A measure gives its rows one by one; the first line of its docstring says what it measures."""


def chosen(names: Sequence[str] | None) -> list[str]:
    """The measures that are asked for, each once, in the order of `MEASURES`; all of them by default.

    Raises:
        LlmoError: There is no measure of one of the names.
    """
    for name in names or ():
        if name not in MEASURES:
            raise LlmoError("row", name, MEASURES)
    return [name for name in MEASURES if not names or name in names]
