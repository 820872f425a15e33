"""Which of the three sources is trained on: soft choices, each source keeps a floor."""

from __future__ import annotations

from llmo.actions.action import SetMode
from llmo.registry import actions


class MixSources(SetMode):
    """Change how the sources are mixed."""

    hyperparameter = "mixing"


@actions.register("source_1")
class FocusFirst(MixSources):
    """Nine tenths of the sequences from source 1."""

    mode = "source_1"


@actions.register("source_2")
class FocusSecond(MixSources):
    """Nine tenths of the sequences from source 2."""

    mode = "source_2"


@actions.register("source_3")
class FocusThird(MixSources):
    """Nine tenths of the sequences from source 3."""

    mode = "source_3"


@actions.register("source_uniform")
class Uniform(MixSources):
    """All three sources alike."""

    mode = "uniform"


@actions.register("source_tracking")
class Tracking(MixSources):
    """Favour the sources whose training loss is nearest to the validation loss, again after each interval."""

    mode = "tracking"
