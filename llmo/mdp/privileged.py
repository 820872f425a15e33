"""What a critic may know while a policy learns, and the policy itself must not: which instance this is, how it ends.

Knowing how the teacher fared on the same instance takes most of the noise out of the advantages; the actor reads none
of it (asymmetric actor-critic, Pinto et al. 2018; LHOPT's critic sees such things too).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from llmo.diagnostics.features import LIMIT
from llmo.mdp.instances import Instance
from llmo.mdp.reference import Curve
from llmo.mdp.sizes import LEAST_INTERVAL
from llmo.measurement import Measurement

_SLOTS = range(3)
PRIVILEGED = (
    "reference_to_go", "ahead_now", "ahead_of_its_end", "interval", "depth", "damage", "next_change", "teacher", "rate",
    "weight_scale",
    *(f"noise_{slot + 1}" for slot in _SLOTS), *(f"off_domain_{slot + 1}" for slot in _SLOTS),
)  # fmt: skip
"""Names of the entries."""


def privileged(instance: Instance, last: Measurement, curve: Curve) -> NDArray[np.float32]:
    """What the critic sees besides the observation: float32, [len(PRIVILEGED)], in [-LIMIT, LIMIT].

    Args:
        instance: What is played.
        last: The newest measurement.
        curve: How the reference fared on the same instance.
    """
    own, reference, end = math.log(last.best_validation_loss), curve.at(last.spent), curve.at(1.0)
    order: tuple[int, ...] = (0, 1, 2)
    to_come = 1.0
    for share, new in instance.changes:
        if share <= last.spent:
            order = new
        else:
            to_come = min(to_come, share)
    sources = [instance.sources[order[slot]] for slot in _SLOTS]
    values = [
        10 * (reference - end),
        10 * (reference - own),
        10 * (end - own),
        math.log(instance.interval / LEAST_INTERVAL),
        instance.shape.depth,
        4 * instance.damage,
        to_come - last.spent,
        bool(instance.teacher),
        math.log10(instance.rate_factor),
        math.log(instance.weight_scale),
        *(source.noise for source in sources),
        *(source.domain != instance.domain for source in sources),
    ]
    return np.clip(np.array(values, np.float32), -LIMIT, LIMIT)
