"""Train on inputs that are made harder: noise on the embeddings, or steps against the model."""

from __future__ import annotations

from llmo.actions.action import SetMode
from llmo.engine.run import Run
from llmo.registry import actions


class Perturb(SetMode):
    """Change the perturbation."""

    hyperparameter = "perturbation"

    def allowed(self, run: Run, row: int) -> bool:
        """When another mode is on, in one process, and what is read is embedded by a layer that nothing else shares."""
        fits = run.ranks is None and run.embedded and run.interface.kind != "seq2seq"
        return (fits or self.mode == "off") and super().allowed(run, row)


@actions.register("perturb_off")
class PerturbOff(Perturb):
    """Leave the embedded inputs as they are."""

    mode = "off"


@actions.register("perturb_noise")
class PerturbNoise(Perturb):
    """Uniform noise on the embeddings (NEFTune, Jain et al. 2023)."""

    mode = "noise"


@actions.register("perturb_fgm")
class PerturbFgm(Perturb):
    """One step up the loss in the embeddings (FGM, Miyato et al. 2017); the second pass is charged."""

    mode = "fgm"


@actions.register("perturb_pgd")
class PerturbPgd(Perturb):
    """Three projected steps up the loss in the embeddings (PGD, Madry et al. 2018); their passes are charged."""

    mode = "pgd"


@actions.register("perturb_swaps")
class PerturbSwaps(Perturb):
    """A tenth of the tokens replaced by those that raise the loss most (HotFlip, Ebrahimi et al. 2018)."""

    mode = "swaps"
