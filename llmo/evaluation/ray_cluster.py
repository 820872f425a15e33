"""The Ray cluster that work is sent to: joined or started, checked, and told what its processes need to know."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from typing import Any

from llmo import __version__
from llmo.catalog import PLUGINS_VARIABLE
from llmo.errors import LlmoError
from llmo.evaluation.processes import WorkerLost, cores

ADDRESS_VARIABLE = "RAY_ADDRESS"
PROBE_SECONDS = 10.0
"""How long the head of a cluster may take to accept a connection."""


def join_cluster(needed: int | None = None) -> int:
    """Join the cluster that the environment variable RAY_ADDRESS names; without it, start one of this machine alone.

    What this process has joined already is kept.

    Args:
        needed: CPUs that it must have; one of this machine is given as many, whatever the machine has.

    Returns:
        How many CPUs it has.

    Raises:
        LlmoError: Ray is not installed, there is no such cluster, it has fewer CPUs, or other versions of llmo.
    """
    address = os.environ.get(ADDRESS_VARIABLE, "")
    named = address not in ("", "local")
    if named:
        # Read at the import: else Ray talks for ten minutes to whatever listens there and is no cluster.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    try:
        import ray
    except ImportError as error:
        raise LlmoError("workers", "ray", "processes, or Ray after `pip install 'llmo[ray]'`") from error
    if not ray.is_initialized():
        # Its own messages are many lines where one will do.
        logging.getLogger("ray").setLevel(logging.ERROR)
        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        if named:
            _probe(address)
            try:
                ray.init(address, **quiet)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise _unreachable(address, str(error).partition("\n")[0]) from error
            _check_versions()
        else:
            # Ray would write one to the home folder, over which clusters that start at the same time disagree.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            ray.init("local", num_cpus=max(cores(), needed or 0), **quiet)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < (needed or 1):
        raise LlmoError("workers", f"ray:{needed or 1}", f"at most {cpus}, one a CPU of the cluster")
    return cpus


def environment() -> dict[str, Any]:
    """The runtime environment of what runs for this process: its plug-ins, and where Python finds them."""
    variables = {PLUGINS_VARIABLE: os.environ.get(PLUGINS_VARIABLE, "")}
    if "PYTHONPATH" in os.environ:
        variables["PYTHONPATH"] = f"{os.environ['PYTHONPATH']}{os.pathsep}${{PYTHONPATH}}"
    return {"env_vars": {name: value for name, value in variables.items() if value}}


def loss(error: Exception) -> WorkerLost:
    """The loss of a worker that a Ray error tells of."""
    return WorkerLost(f"is lost ({str(error).partition('.')[0]})")


def _probe(address: str) -> None:
    """Find out whether somebody listens at an address.

    Raises:
        LlmoError: It is no address of a cluster, or nobody does.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise _unreachable(address, "it is no HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, why: str) -> LlmoError:
    allowed = f"HOST:PORT of the head of a cluster that this machine is in, or none to work on this machine ({why})"
    return LlmoError(ADDRESS_VARIABLE, address, allowed)


def _check_versions() -> None:
    """Ask every node of the cluster for its llmo.

    Raises:
        LlmoError: One has none, or another version than this process.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def installed() -> str:
        # Ray sends it by value, so it runs where there is no llmo.
        try:
            from llmo import __version__ as version
        except ImportError:
            return "none"
        return version

    task = ray.remote(num_cpus=0, runtime_env=environment())(installed)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in nodes
    ]
    for node, version in zip(nodes, ray.get(asked), strict=True):
        if version != __version__:
            host = node["NodeManagerHostname"]
            raise LlmoError(f"llmo on the Ray node {host}", version, f"{__version__}, the version of this process")
