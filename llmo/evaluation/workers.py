"""Who does the work: this process, processes of this machine, or Ray on a cluster. What comes out is the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from llmo.errors import LlmoError
from llmo.evaluation.processes import cores, one_thread
from llmo.mdp.sb3_env import PopulationVecEnv, SlotVecEnv

Kind = Literal["here", "processes", "ray"]
ALLOWED = (
    "0 for this process, N or processes:N for processes of this machine (processes: one a core), "
    "ray:N for Ray (ray: one a CPU of the cluster)"
)


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    Attributes:
        kind: ``here`` for this process, ``processes`` for processes of this machine, ``ray`` for Ray's.
        count: How many there are; 0 for ``here``.
    """

    kind: Kind
    count: int

    def __str__(self) -> str:
        names = {"here": "this process", "processes": "process(es)", "ray": "Ray worker(s)"}
        return names[self.kind] if self.kind == "here" else f"{self.count} {names[self.kind]}"


HERE = Workers("here", 0)
"""This process alone."""


def find_workers(asked: str | int, replicas: int | None = None) -> Workers:
    """The workers that an option ``--workers`` asks for. Where that is Ray, its cluster is joined or started.

    Args:
        asked: ``0`` for this process; ``N`` or ``processes:N``, or ``processes`` for one a core; ``ray:N``, or ``ray``
            for one a CPU of the cluster.
        replicas: What they share evenly, where they do: how many they are is a divisor of it.

    Raises:
        LlmoError: It is none of these, the replicas cannot be shared so, Ray is not installed, its cluster does not
            answer or has fewer CPUs.
    """
    match = re.fullmatch(r"(?:processes:)?([1-9]\d*)|(processes)|ray(?::([1-9]\d*))?|0", str(asked))
    if match is None:
        raise LlmoError("workers", asked, ALLOWED)
    if match[0] == "0":
        return HERE
    kind: Kind = "ray" if match[0].startswith("ray") else "processes"
    number = match[1] or match[3]
    count = int(number) if number else None
    if count is not None and replicas is not None and replicas % count:
        raise LlmoError("replicas", replicas, f"a multiple of the number of workers, {count}")
    if kind == "ray":
        from llmo.evaluation.ray_cluster import join_cluster

        most = join_cluster(count)
    else:
        most = cores()
    if count is None:
        count = most if replicas is None else max(n for n in range(1, most + 1) if replicas % n == 0)
    return Workers(kind, count)


def population_env(env: str, replicas: int, workers: Workers, **parameters: Any) -> SlotVecEnv:
    """A population that some workers share, or one in this process; see `WorkerVecEnv` and `PopulationVecEnv`.

    This process uses one thread from now on, so that what a policy learns here does not depend on who plays either.
    """
    one_thread()
    if workers.kind == "ray":
        from llmo.evaluation.ray_env import RayVecEnv

        return RayVecEnv(env, replicas, workers.count, **parameters)
    if workers.kind == "processes":
        from llmo.evaluation.process_env import ProcessVecEnv

        return ProcessVecEnv(env, replicas, workers.count, **parameters)
    return PopulationVecEnv(env, replicas, **parameters)
