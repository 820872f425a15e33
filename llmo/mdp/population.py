"""The one core behind every environment: N training runs that step together.

Each slot plays its own instance. Slots whose models have the same shape share one `Run`, so that they train in one
program. A slot's numbers depend on its instance and its actions alone, not on the other slots or on how many there are.
"""

from __future__ import annotations

import copy
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmo.agent import Schedule
from llmo.diagnostics.features import observe
from llmo.diagnostics.history import History
from llmo.engine.models import ModelShape, build_model, load_pretrained
from llmo.engine.run import Run
from llmo.engine.single import SingleSettings
from llmo.engine.state import Snapshot as RowSnapshot
from llmo.errors import LlmoError
from llmo.mdp.instances import Instance
from llmo.mdp.privileged import privileged
from llmo.mdp.reference import Curve, ReferenceCurves
from llmo.mdp.reward import SCALE, reward, valid_reward
from llmo.mdp.spec import EnvSpec
from llmo.measurement import Measurement


@dataclass
class Episode:
    """One slot's episode so far.

    Attributes:
        instance: The problem.
        history: What features and rewards read.
        masked: How many chosen actions were not allowed and ran as `keep`.
        ended: Whether the budget is spent or training has diverged.
    """

    instance: Instance
    history: History
    masked: int = 0
    ended: bool = False

    def copy(self) -> Episode:
        """A copy whose lists can grow apart from this one's."""
        history = copy.copy(self.history)
        history.measurements, history.actions = list(history.measurements), list(history.actions)
        return Episode(self.instance, history, self.masked, self.ended)


@dataclass(frozen=True)
class Snapshot:
    """Everything of one slot at one moment; it can be restored into any slot of any population of the same spec."""

    episode: Episode
    row: RowSnapshot


@dataclass(frozen=True)
class Step:
    """What one environment step gave.

    Attributes:
        reward: A finite number.
        terminated: Whether the episode is over.
        action: Name of the action that was taken, `keep` for a masked one.
        masked: Whether the chosen action was not allowed.
        measurement: What the interval measured.
    """

    reward: float
    terminated: bool
    action: str
    masked: bool
    measurement: Measurement


class Population:
    """N slots, each with an episode of its own.

    Args:
        spec: The environment.
        replicas: N, at least 1.
        reward: ``gain``, ``relative`` or ``final``.
        strict: Whether choosing a masked action raises, instead of running `keep`.
        executor: ``single``, ``batched`` or ``compiled``; None chooses by N. They agree within rounding.
        device: Where the runs lie, such as ``cuda``.
        single: How the executor ``single`` trains one large model; None for the defaults.
        curves: Learning curves by index of the instance, to compare with instead of the reference rule's.

    Attributes:
        episodes: By slot; None before the first reset.
        executor: As given.

    Raises:
        LlmoError: No such reward, or fewer than one replica.
    """

    def __init__(
        self,
        spec: EnvSpec,
        replicas: int = 1,
        reward: str = "gain",
        strict: bool = False,
        executor: str | None = None,
        device: str = "cpu",
        single: SingleSettings | None = None,
        curves: Mapping[int, Curve] | None = None,
    ) -> None:
        if replicas < 1:
            raise LlmoError("replicas", replicas, "at least 1")
        self.spec, self.replicas, self.reward, self.strict = spec, replicas, valid_reward(reward), strict
        self.episodes: list[Episode | None] = [None] * replicas
        self.executor, self.device, self._single = executor, device, single
        self._runs: dict[tuple[str, ModelShape, str, int, int], Run] = {}
        self._keep, self._features = spec.menu.index("keep"), spec.space.features
        self._reference: ReferenceCurves | None = None
        if reward == "relative" or curves:
            other = Population(spec, replicas, executor=executor, device=device, single=single)
            self._reference = ReferenceCurves(spec.name, other.keep_to_the_end, replicas, curves)

    def run_of(self, slot: int) -> Run:
        """The run whose row `slot` trains the slot's model."""
        return self._run(self.episode(slot).instance)

    def episode(self, slot: int) -> Episode:
        """The slot's episode.

        Raises:
            LlmoError: It has none yet.
        """
        episode = self.episodes[slot]
        if episode is None:
            raise LlmoError("step", "before reset", "a call of reset first")
        return episode

    def reset(self, instances: Mapping[int, Instance], schedules: Mapping[int, Schedule | None] | None = None) -> None:
        """Begin an episode in each of some slots.

        Args:
            instances: The problem by slot.
            schedules: Learning-rate schedule by slot, for rules that set the rate at every optimizer step.
        """
        for slot, instance in instances.items():
            run = self._run(instance)
            problem = self.spec.build(instance)
            run.load(slot, problem)
            state = run.states[slot]
            state.schedule = (schedules or {}).get(slot)
            history = History(
                start=problem.start,
                vocabulary=run.interface.outputs,
                default_rate=run.default_rate(slot),
                hyperparameters=problem.hyperparameters,
                adapter=state.adapter,
                rank=state.rank,
                neutral=frozenset(instance.neutral),
            )
            self.episodes[slot] = Episode(instance, history)
        for run, rows in self._by_run(list(instances)):
            for row, measurement in zip(rows, run.evaluate(rows), strict=True):
                self.episode(row).history.measurements.append(measurement)
        if self._reference is not None:
            self._reference.prepare(list(instances.values()))

    def observe(self, slot: int) -> NDArray[np.float32]:
        """The slot's observation, [F]."""
        return observe(self.episode(slot).history, self._features)

    def privileged(self, slot: int) -> NDArray[np.float32]:
        """What a critic may know of the slot besides, [len(PRIVILEGED)]; for a population that compares with curves."""
        assert self._reference is not None
        episode = self.episode(slot)
        return privileged(episode.instance, episode.history.last, self._reference.of(episode.instance))

    def mask(self, slot: int) -> NDArray[np.bool_]:
        """Which actions the slot may take, [A]."""
        episode, run = self.episode(slot), self.run_of(slot)
        closed = episode.instance.closed
        return np.array(
            [
                action.allowed(run, slot) and not name.startswith(closed)
                for name, action in zip(self.spec.menu, self.spec.actions, strict=True)
            ]
        )

    def step(self, actions: Mapping[int, Any]) -> dict[int, Step]:
        """One environment step of some slots.

        Args:
            actions: Action index by slot.

        Raises:
            LlmoError: An action is no index of the menu, an episode has not begun or is over, or, if strict, an action
                is masked. Nothing has changed then.
        """
        chosen = {slot: valid_action(action, len(self.spec.menu)) for slot, action in actions.items()}
        taken = {slot: self._unmask(slot, index) for slot, index in chosen.items()}
        for slot, index in taken.items():
            self.spec.actions[index].apply(self.run_of(slot), slot)
        measured: dict[int, Measurement] = {}
        for run, rows in self._by_run(list(taken)):
            run.train(rows)
            for row in rows:
                run.states[row].step += 1
            measured |= dict(zip(rows, run.evaluate(rows), strict=True))
        return {slot: self._close(slot, chosen[slot], index, measured[slot]) for slot, index in taken.items()}

    def _unmask(self, slot: int, index: int) -> int:
        if self.episode(slot).ended:
            raise LlmoError("step", "after the end of the episode", "a call of reset first")
        mask = self.mask(slot)
        if mask[index]:
            return index
        if self.strict:
            raise LlmoError("action", self.spec.menu[index], [n for n, ok in zip(self.spec.menu, mask) if ok])
        return self._keep

    def _close(self, slot: int, chosen: int, taken: int, after: Measurement) -> Step:
        """Bring the slot's history up to date and give the step's result."""
        episode, run = self.episode(slot), self.run_of(slot)
        history, state = episode.history, run.states[slot]
        before = history.last
        history.measurements.append(after)
        history.actions.append(self.spec.menu[taken])
        history.hyperparameters, history.adapter, history.rank = state.hyperparameters, state.adapter, state.rank
        history.default_rate = run.default_rate(slot)
        episode.masked += taken != chosen
        episode.ended = after.diverged or run.affordable_steps(slot) < 1
        # An early end is charged what the reference still gains, or diverging would be a way out.
        until = 1.0 if episode.ended else after.spent
        reference, price = 0.0, state.problem.price
        if self._reference is not None:
            gained = self._reference.gain(episode.instance, before.spent, until)
            reference = gained - SCALE * price * (until - before.spent)
        value = reward(self.reward, history.measurements[0], before, after, episode.ended, reference, price)
        return Step(value, episode.ended, self.spec.menu[taken], taken != chosen, after)

    def keep_to_the_end(
        self, instances: Sequence[Instance], schedules: Sequence[Schedule | None]
    ) -> list[list[Measurement]]:
        """Train at most N instances under schedules, taking no action but `keep`; all measurements of each."""
        self.reset(dict(enumerate(instances)), dict(enumerate(schedules)))
        going = list(range(len(instances)))
        while going:
            steps = self.step(dict.fromkeys(going, self._keep))
            going = [slot for slot in going if not steps[slot].terminated]
        return [self.episode(slot).history.measurements for slot in range(len(instances))]

    def snapshot(self, slot: int) -> Snapshot:
        """Everything of a slot."""
        return Snapshot(self.episode(slot).copy(), self.run_of(slot).snapshot(slot))

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Put a snapshot into a slot; continuing from it is bit-identical within one executor."""
        self.episodes[slot] = snapshot.episode.copy()
        if self._reference is not None:
            self._reference.prepare([snapshot.episode.instance])
        self.run_of(slot).restore(slot, snapshot.row)

    def test_loss(self, slot: int) -> float:
        """Test loss of the delivered weights; for scoring only."""
        return self.run_of(slot).test_loss(slot)

    def _run(self, instance: Instance) -> Run:
        """The run of all slots with an instance's task, phases, shape, batch, and base if that is frozen and shared."""
        shape, base = instance.shape, self.spec.frozen_base(instance)
        key = instance.task, shape, base, len(instance.phases), instance.batches
        if key not in self._runs:
            if self.spec.model is not None:
                model = self.spec.model(instance)
            else:
                model = load_pretrained(base) if base else build_model(shape, 0)
            virtual = not {"adapter_prompt", "adapter_prefix"}.isdisjoint(self.spec.menu)
            self._runs[key] = Run(model, self.replicas, self.executor, bool(base), self.device, self._single, virtual)
        return self._runs[key]

    def _by_run(self, slots: Sequence[int]) -> list[tuple[Run, list[int]]]:
        groups: dict[int, tuple[Run, list[int]]] = {}
        for slot in slots:
            run = self.run_of(slot)
            groups.setdefault(id(run), (run, []))[1].append(slot)
        return list(groups.values())


def valid_action(action: Any, count: int) -> int:
    """An action as an index.

    Raises:
        LlmoError: It is no integer in ``0..count - 1``.
    """
    value = action.item() if isinstance(action, np.ndarray) and action.size == 1 else action
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral) or not 0 <= int(value) < count:
        raise LlmoError("action", value, f"an integer in 0..{count - 1}")
    return int(value)
