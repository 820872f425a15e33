"""Elastic weight consolidation: weights that mattered are held near where they were (Kirkpatrick et al. 2017).

How much a weight matters is the diagonal of the Fisher information, of which AdamW's second moment is a running
estimate. It is divided by its mean, as nobody knows the scale of a model's gradients; without one all matter alike.
"""

from __future__ import annotations

from torch import Tensor

from llmo.engine.optimizer import Moments

STRENGTH = 0.1
"""Factor on the pull, for a weight of average importance."""
MOST = 10.0
"""Most by which a weight matters more than the average."""


def importance(anchor: Moments) -> Tensor:
    """How much each weight matters, [P], with a mean of about 1."""
    second = anchor.second[0]
    mean = second.mean()
    return (second / mean).clamp(max=MOST) if mean > 0 else second + 1


def pull(values: Tensor, anchor: Moments) -> Tensor:
    """What is added to the gradient of weights [P], to pull them to an anchor [1, P]."""
    return STRENGTH * importance(anchor) * (values - anchor.values[0])
