"""What one training interval measured: the only thing that features, rewards and records read."""

from __future__ import annotations

import math
from dataclasses import dataclass

Triple = tuple[float, float, float]
"""One number for each of the three data-source slots."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """One interval of training and the validation pass that closed it.

    The first measurement of a run is made before any training: its interval fields are zero or NaN.

    Attributes:
        step: Environment steps taken so far, 0 for the first measurement.
        optimizer_steps: Optimizer steps in this interval.
        spent: Share of the budget spent so far, 0 to 1.
        cost: FLOPs of this interval, validation included.
        validation_loss: Mean cross-entropy on the validation split, nats per token, of what predicts; inf after a
            divergence.
        best_validation_loss: The lowest so far, this one included.
        train_loss: Mean cross-entropy over the interval's batches; NaN where nothing was trained.
        source_loss: Last known mean training loss of each source; NaN for one never sampled.
        source_share: Share of the interval's sequences drawn from each source.
        source_tokens: Tokens in each source.
        mixture: Sampling weights of the sources after this interval's update; they sum to 1.
        gradient_norm: Mean norm of the gradient before clipping.
        clipped: Share of the optimizer steps whose gradient was clipped, 0 to 1.
        momentum_cosine: Cosine of the last gradient and the first moment, -1 to 1.
        gradient_cosine: Cosine of the last two mini-batch gradients, -1 to 1; low means noise dominates.
        update_ratio: Norm of the interval's change of the matrices, adapter merged, over their norm; gains and biases
            have scales of their own. Before any step, what Adam's first one will change; 0 where an adapter is trained.
        learning_rate: Rate of the last optimizer step.
        teacher_loss: Validation loss of the external teacher; NaN without one.
        diverged: Whether a loss or gradient was NaN or Inf.
        best_priced_loss: The lowest so far of the validation losses with the prices of size and work in them; NaN where
            neither has one.
        forgotten: How far the validation loss of an earlier phase of the data lies above its lowest, as a log ratio, of
            the phase where that is most; NaN where no data have shifted.
        privacy: Share of the budget of privacy that is spent; NaN where training is not private.
        size: Bytes of the weights over those of dense float32 ones, in (0, 1]; of an ensemble that of all its members.
        work: FLOPs of a prediction over those of the whole model, above 0; of an ensemble those of all its members.
        registers: Validation loss of what each of the three registers holds; NaN for an empty one.
        epsilon: Epsilon of (epsilon, delta) differential privacy that all steps so far have cost, at least 0; NaN where
            training is not private.
        delta: The chance that this bound does not hold, in (0, 1); NaN where training is not private.
    """

    step: int
    optimizer_steps: int
    spent: float
    cost: float
    validation_loss: float
    best_validation_loss: float
    train_loss: float
    source_loss: Triple
    source_share: Triple
    source_tokens: Triple
    mixture: Triple
    gradient_norm: float
    clipped: float
    momentum_cosine: float
    gradient_cosine: float
    update_ratio: float
    learning_rate: float
    teacher_loss: float
    diverged: bool
    best_priced_loss: float = math.nan
    forgotten: float = math.nan
    privacy: float = math.nan
    size: float = 1.0
    work: float = 1.0
    registers: Triple = (math.nan, math.nan, math.nan)
    epsilon: float = math.nan
    delta: float = math.nan

    def __eq__(self, other: object) -> bool:
        """Whether every number is the same; NaN is the same as NaN here."""
        return isinstance(other, Measurement) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def best(self) -> float:
        """What rewards are gained on: the best loss so far, with the prices of size and work in it."""
        return self.best_validation_loss if math.isnan(self.best_priced_loss) else self.best_priced_loss

    @property
    def finite(self) -> bool:
        """Whether training is still sound."""
        return not self.diverged and math.isfinite(self.validation_loss)
