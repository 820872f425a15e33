"""Populations on a GPU give what one run after another gives on a CPU."""

from collections.abc import Callable

import pytest
import torch

from llmo.engine.models import ModelShape, build_model
from llmo.engine.run import Run
from llmo.engine.state import Problem

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use")
SHAPE = ModelShape(8, 2)


@pytest.mark.parametrize("executor", ["batched", "compiled"])
def test_a_population_on_a_gpu_agrees_with_single_on_a_cpu(make_problem: Callable[..., Problem], executor: str) -> None:
    def trained(executor: str, device: str) -> list[tuple[float, float, float]]:
        run = Run(build_model(SHAPE, 0), 5, executor, device=device)
        for row in range(5):
            settings = {"learning_rate": 1e-3 * (1 + row), "regularisation": row, "distillation": "averaged"}
            run.load(row, make_problem(row, interval=9 + row % 2, **settings))
        run.fresh_adapter(3)
        found = []
        for _ in range(2):
            run.train(range(5))
            found += [(one.validation_loss, one.gradient_norm, one.update_ratio) for one in run.evaluate(range(5))]
        return found

    for here, there in zip(trained(executor, "cuda"), trained("single", "cpu"), strict=True):
        assert here == pytest.approx(there, rel=1e-3)
