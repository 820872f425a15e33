"""Who predicts: the present weights alone, or together with what the registers hold."""

from __future__ import annotations

from llmo.actions.action import SetMode
from llmo.engine.run import Run
from llmo.registry import actions


class PredictTogether(SetMode):
    """Validate, test and deliver an ensemble of the present weights and those in the registers; all are charged."""

    hyperparameter = "prediction"

    def allowed(self, run: Run, row: int) -> bool:
        """While another mode is on, something is in a register, and the budget pays for validating it."""
        return super().allowed(run, row) and run.can_predict_together(row)


@actions.register("predict_alone")
class PredictAlone(SetMode):
    """Validate and deliver the present weights alone."""

    hyperparameter, mode = "prediction", "alone"


@actions.register("predict_average")
class PredictAverage(PredictTogether):
    """Predict with the mean of what the present weights and the registers give (snapshot ensembles, Huang et al. 2017).

    Each counts in proportion to exp(-validation loss); probabilities are averaged (Lakshminarayanan et al. 2017).
    """

    mode = "average"


@actions.register("predict_vote")
class PredictVote(PredictTogether):
    """Predict by a vote of the present weights and the registers, one each (Hansen and Salamon 1990).

    A tenth of the probability is spread over all classes; for labels, as a vote says little of what text goes on with.
    """

    mode = "vote"

    def allowed(self, run: Run, row: int) -> bool:
        """The same, where a sequence or its tokens have classes."""
        return run.interface.kind in ("classification", "tagging") and super().allowed(run, row)
