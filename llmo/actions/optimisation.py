"""How gradients become updates: optimizer, moments, clipping, batches together, smooth labels, warm restarts."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.actions.levels import TurnExtra, TurnLevel
from llmo.engine.run import Run
from llmo.hyperparameters import Optimizer
from llmo.registry import actions


class ChangeOptimizer(Action):
    """Train on with another optimizer, at the same rate relative to its default.

    Attributes:
        optimizer: Which.
    """

    optimizer: Optimizer

    def allowed(self, run: Run, row: int) -> bool:
        """While another is used."""
        return run.states[row].hyperparameters.optimizer != self.optimizer

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change_optimizer(row, self.optimizer)


@actions.register("optimizer_adamw")
class UseAdamW(ChangeOptimizer):
    """AdamW (Loshchilov and Hutter 2019)."""

    optimizer = "adamw"


@actions.register("optimizer_sgd")
class UseSgd(ChangeOptimizer):
    """SGD with momentum (Polyak 1964)."""

    optimizer = "sgd"


@actions.register("optimizer_lion")
class UseLion(ChangeOptimizer):
    """Lion: the sign of the momentum (Chen et al. 2023)."""

    optimizer = "lion"


@actions.register("optimizer_schedule_free")
class UseScheduleFree(ChangeOptimizer):
    """Schedule-free AdamW (Defazio et al. 2024)."""

    optimizer = "schedule_free"


@actions.register("warm_restart")
class WarmRestart(Action):
    """Begin a decay again from the full rate, along half a cosine to zero (SGDR, Loshchilov and Hutter 2017)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While the rate decays, and no schedule rule sets it."""
        state = run.states[row]
        begun = state.hyperparameters.decay_from
        return state.schedule is None and begun is not None and begun < state.share < 1

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, decay_from=min(run.states[row].share, 0.999), cosine=True)


@actions.register("momentum_more")
class MomentumMore(TurnLevel):
    """A longer memory of the first moment: a higher beta 1."""

    hyperparameter, by = "momentum", 1


@actions.register("momentum_less")
class MomentumLess(TurnLevel):
    """A shorter memory of the first moment: a lower beta 1."""

    hyperparameter, by = "momentum", -1


class Memory(TurnLevel):
    """Turn the memory of the second moment."""

    hyperparameter = "memory"

    def allowed(self, run: Run, row: int) -> bool:
        """While there is such a level, and the optimizer has a second moment."""
        squares = run.states[row].hyperparameters.optimizer in ("adamw", "schedule_free")
        return squares and super().allowed(run, row)


@actions.register("memory_more")
class MemoryMore(Memory):
    """A longer memory of the second moment: a higher beta 2."""

    by = 1


@actions.register("memory_less")
class MemoryLess(Memory):
    """A shorter memory of the second moment: a lower beta 2."""

    by = -1


@actions.register("clip_more")
class ClipMore(TurnLevel):
    """Clip gradients to a smaller norm, about a third (Pascanu et al. 2013)."""

    hyperparameter, by = "clipping", -1


@actions.register("clip_less")
class ClipLess(TurnLevel):
    """Clip gradients to a larger norm, about three times."""

    hyperparameter, by = "clipping", 1


@actions.register("batch_double")
class BatchDouble(TurnLevel):
    """Twice as many batches for one update (Smith et al. 2018, "Don't decay the learning rate, increase the batch")."""

    hyperparameter, by = "accumulation", 1


@actions.register("batch_halve")
class BatchHalve(TurnLevel):
    """Half as many batches for one update."""

    hyperparameter, by = "accumulation", -1


@actions.register("smooth_more")
class SmoothMore(TurnLevel):
    """Smooth the labels more (Szegedy et al. 2016)."""

    hyperparameter, by = "smoothing", 1

    def allowed(self, run: Run, row: int) -> bool:
        """While there is such a level, and there are classes to spread over."""
        return run.interface.outputs > 1 and super().allowed(run, row)


@actions.register("smooth_less")
class SmoothLess(TurnLevel):
    """Smooth the labels less."""

    hyperparameter, by = "smoothing", -1


@actions.register("decay_more")
class DecayMore(TurnExtra):
    """One level more weight decay, dropout as it is."""

    hyperparameter, by = "extra_decay", 1


@actions.register("decay_less")
class DecayLess(TurnExtra):
    """One level less weight decay, dropout as it is."""

    hyperparameter, by = "extra_decay", -1


@actions.register("dropout_more")
class DropoutMore(TurnExtra):
    """One level more dropout, weight decay as it is."""

    hyperparameter, by = "extra_dropout", 1


@actions.register("dropout_less")
class DropoutLess(TurnExtra):
    """One level less dropout, weight decay as it is."""

    hyperparameter, by = "extra_dropout", -1
