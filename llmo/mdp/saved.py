"""A slot's snapshot as tensors and JSON, for a checkpoint on the disk; and back, bit for bit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from torch import Tensor

from llmo.agent import Schedule
from llmo.diagnostics.history import History
from llmo.engine.rows import Tensors
from llmo.engine.state import Problem, State, Sums
from llmo.engine.state import Snapshot as RowSnapshot
from llmo.engine.structure import Structure
from llmo.hyperparameters import Hyperparameters
from llmo.mdp.instances import Instance
from llmo.mdp.population import Episode, Snapshot
from llmo.measurement import Measurement

KEPT = "kept/"
"""Before the names of tensors that a row keeps."""
_ARRAYS = {"mixture": np.float64, "source_loss": np.float64, "source_count": np.int64}


def pack(snapshot: Snapshot) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A snapshot as tensors by name and a JSON object. Tensors that are the same one are saved once."""
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    row = vars(snapshot.row.tensors)
    for name, tensor in {**row, **{f"{KEPT}{name}": kept for name, kept in row["kept"].items()}}.items():
        if isinstance(tensor, Tensor):
            known = next((other for other, saved in tensors.items() if saved is tensor), name)
            tensors.setdefault(known, tensor)
            names[name] = known
    state, history = snapshot.row.state, snapshot.episode.history
    fields = {name: value for name, value in vars(state).items() if name not in ("problem", "schedule")}
    meta = {
        "tensors": names,
        "state": _plain(fields),
        "history": _plain({name: value for name, value in vars(history).items() if name != "neutral"}),
        "masked": snapshot.episode.masked,
        "ended": snapshot.episode.ended,
    }
    return tensors, meta


def unpack(
    tensors: dict[str, Tensor], meta: dict[str, Any], instance: Instance, problem: Problem, schedule: Schedule | None
) -> Snapshot:
    """The snapshot that was packed.

    Args:
        tensors: As `pack` gave them.
        meta: Likewise, after a way through JSON.
        instance: What is played.
        problem: Of the instance.
        schedule: Of the rule that plays it, if any.
    """
    parts: dict[str, Any] = {field.name: None for field in dataclasses.fields(Tensors)}
    found = {name: tensors[known] for name, known in meta["tensors"].items()}
    kept = {name.removeprefix(KEPT): tensor for name, tensor in found.items() if name.startswith(KEPT)}
    parts |= {name: tensor for name, tensor in found.items() if not name.startswith(KEPT)} | {"kept": kept}
    fields = dict(meta["state"])
    best = fields["best_state"]
    fields["hyperparameters"] = Hyperparameters(**fields["hyperparameters"])
    fields["best_state"] = (
        None if best is None else (Hyperparameters(**best[0]), best[1], best[2], Structure.loaded(best[3]))
    )
    fields["best_others"] = tuple(
        (adapter, Structure.loaded(structure), share) for adapter, structure, share in fields["best_others"]
    )
    registers = fields.get("registers", {})
    fields["registers"] = {
        name: (Hyperparameters(**one[0]), *one[1:4], Structure.loaded(one[4])) for name, one in registers.items()
    }
    for name in ("structure", "larger"):
        fields[name] = Structure.loaded(fields[name])
    # JSON has no numbers for keys.
    fields["private_steps"] = {float(noise): steps for noise, steps in fields.get("private_steps", {}).items()}
    fields["phase_losses"] = tuple(map(tuple, fields.get("phase_losses", ())))
    fields["interval"] = Sums(**_arrays(fields["interval"]))
    state = State(
        dataclasses.replace(problem, weights=problem.weights.new_empty(0)), schedule=schedule, **_arrays(fields)
    )
    history = dict(meta["history"])
    history["hyperparameters"] = Hyperparameters(**history["hyperparameters"])
    history["measurements"] = [Measurement(**_triples(one)) for one in history["measurements"]]
    episode = Episode(instance, History(**history, neutral=frozenset(instance.neutral)), meta["masked"], meta["ended"])
    return Snapshot(episode, RowSnapshot(Tensors(**parts), state))


def _plain(value: Any) -> Any:
    """Dataclasses, arrays and tuples as JSON has them; Python's JSON keeps every float, NaN and infinity too."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(part) for name, part in vars(value).items()}
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _arrays(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: np.array(value, _ARRAYS[name]) if name in _ARRAYS else value for name, value in fields.items()}


def _triples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
