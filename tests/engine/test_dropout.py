"""Dropout masks by counter, multiplied into the outputs of the blocks."""

import numpy as np
import torch

from llmo.engine.dropout import BlockDropout, blocks, dropout_masks
from llmo.engine.models import ModelShape, build_model

SEEDS, STEPS = np.array([5, 6, 7], np.uint64), np.array([1, 1, 1])


def test_masks_have_their_rows_rate_and_a_mean_of_one() -> None:
    masks = dropout_masks(SEEDS, STEPS, np.array([0.0, 0.1, 0.4]), (2, 10, 10, 100))
    assert masks is not None
    assert torch.all(masks[0] == 1)
    for row, rate in ((1, 0.1), (2, 0.4)):
        assert abs(float((masks[row] == 0).float().mean()) - rate) < 0.015
        assert abs(float(masks[row].mean()) - 1) < 0.02
    assert dropout_masks(SEEDS, STEPS, np.zeros(3), (2, 2)) is None


def test_masks_of_a_row_do_not_depend_on_the_others() -> None:
    together = dropout_masks(SEEDS, STEPS, np.array([0.2, 0.1, 0.4]), (3, 7))
    alone = dropout_masks(SEEDS[1:2], STEPS[1:2], np.array([0.1]), (3, 7))
    assert together is not None and alone is not None and torch.equal(together[1], alone[0])


def test_every_block_is_masked_and_the_model_is_whole_without_masks() -> None:
    model = build_model(ModelShape(8, 3), 0)
    ids = torch.arange(6)[None]
    before = model(input_ids=ids).logits
    dropout = BlockDropout(model)
    assert len(blocks(model)) == 3
    assert torch.equal(model(input_ids=ids).logits, before)
    dropout.masks = torch.ones(3, 1, 6, 8)
    assert torch.equal(model(input_ids=ids).logits, before)
    for block in range(3):
        dropout.masks = torch.ones(3, 1, 6, 8)
        dropout.masks[block, :, :, 0] = 0
        assert not torch.allclose(model(input_ids=ids).logits, before)
    # Nothing follows the last block but the norm and the head.
    dropout.masks[2, :, 4] = 0
    assert torch.all(model(input_ids=ids).logits[0, 4] == 0)
