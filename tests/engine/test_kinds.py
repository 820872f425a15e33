"""Models of every kind train as their own classes say, alone and in populations."""

from typing import Any

import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig, T5Config

from llmo.engine.intervals import draw_interval
from llmo.engine.layout import Layout
from llmo.engine.run import Run
from llmo.engine.state import Problem
from llmo.errors import LlmoError
from llmo.hyperparameters import Hyperparameters
from llmo.kinds import IGNORED, PADDING, Kind, auto_class
from llmo.tasks.labelled import Labelled
from llmo.tasks.task import Examples

TOKENS, CLASSES = 9, 4
LLAMA = LlamaConfig(
    vocab_size=40, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, pad_token_id=39, num_labels=CLASSES,
)  # fmt: skip
GPT2 = GPT2Config(
    vocab_size=40, n_positions=16, n_embd=8, n_layer=2, n_head=2, pad_token_id=39, num_labels=CLASSES,
    resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, summary_first_dropout=0, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
T5 = T5Config(
    vocab_size=40, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, dropout_rate=0.0, pad_token_id=39,
    decoder_start_token_id=39,
)  # fmt: skip
MODELS: list[tuple[Any, Kind]] = [
    (LLAMA, "causal_lm"),
    (LLAMA, "classification"),
    (LLAMA, "tagging"),
    (GPT2, "classification"),
    (GPT2, "tagging"),
    (T5, "seq2seq"),
]
IDS = [f"{config.model_type}-{kind}" for config, kind in MODELS]


def make_model(config: Any, kind: Kind, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # In evaluation mode, as the token classifiers have a dropout of their own.
        return auto_class(kind).from_config(config, attn_implementation="eager").eval()


def examples(kind: Kind, count: int, seed: int) -> Examples:
    """Sequences of different length with labels of the kind; some positions of a sequence have none."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(39, (count, TOKENS), generator=generator)
    lengths = torch.randint(2, 6, (count,), generator=generator)
    places = torch.arange(TOKENS)
    behind = places[None] >= lengths[:, None]
    if kind == "causal_lm":
        labels = torch.where(behind, IGNORED, ids.roll(-1, 1))
        return Examples(torch.where(behind, 0, ids), labels)
    if kind == "seq2seq":
        positions = 4
        source = torch.where(behind, PADDING, ids)[:, :-positions]
        target = torch.where(places[None, :positions] >= (lengths[:, None] - 1), IGNORED, ids[:, :positions])
        shifted = torch.cat([torch.full((count, 1), 39), target[:, :-1]], 1)
        return Examples(torch.cat([source, torch.where(shifted == IGNORED, 39, shifted)], 1), target)
    ids = torch.where(behind, PADDING, ids)
    if kind == "classification":
        return Examples(ids, torch.randint(CLASSES, (count, 1), generator=generator))
    labels = torch.randint(CLASSES, (count, TOKENS), generator=generator)
    return Examples(ids, torch.where(behind, IGNORED, labels))


def make_problem(config: Any, kind: Kind, seed: int, **settings: Any) -> Problem:
    model = make_model(config, kind, seed)
    sources = tuple(examples(kind, 12, 10 * seed + index) for index in range(3))
    return Problem(
        task=Labelled(sources, examples(kind, 5, seed + 1), examples(kind, 7, seed + 2)),
        weights=Layout(model).flatten(model),
        teacher=make_model(config, kind, 77),
        start="scratch",
        hyperparameters=Hyperparameters(**({"learning_rate": 5e-3} | settings)),
        roles=((0.0, (0, 1, 2)),),
        interval=4,
        batch=3,
        budget=1e15,
        seed=seed,
    )


def own_loss(model: Any, kind: Kind, part: Examples) -> torch.Tensor:
    """What the class itself says of a batch."""
    ids, labels, padding = part.inputs, part.labels, model.config.pad_token_id
    if kind == "causal_lm":
        # The class shifts by itself.
        shifted = torch.cat([torch.full((len(ids), 1), IGNORED), labels], 1)
        return model(input_ids=torch.cat([ids, ids[:, :1]], 1), labels=shifted).loss
    if kind == "seq2seq":
        ids = ids[:, : -labels.shape[1]]
    given = {"input_ids": torch.where(ids < 0, padding, ids), "attention_mask": (ids >= 0).long()}
    return model(**given, labels=labels[:, 0] if kind == "classification" else labels).loss


@pytest.mark.parametrize(("config", "kind"), MODELS, ids=IDS)
def test_loss_is_that_of_the_models_own_class(config: Any, kind: Kind) -> None:
    problem = make_problem(config, kind, 3)
    run = Run(make_model(config, kind), 1)
    run.load(0, problem)
    model = make_model(config, kind, 3)
    with torch.no_grad():
        assert run.evaluate([0])[0].validation_loss == pytest.approx(
            own_loss(model, kind, problem.task.validation).item(), rel=1e-5
        )
        # The test split takes two passes, of different sizes.
        assert run.test_loss(0) == pytest.approx(own_loss(model, kind, problem.task.test).item(), rel=1e-5)


@pytest.mark.parametrize(("config", "kind"), MODELS, ids=IDS)
def test_one_step_is_that_of_torch(config: Any, kind: Kind) -> None:
    problem = make_problem(config, kind, 3, regularisation=0)
    run = Run(make_model(config, kind), 1)
    run.load(0, problem)
    model = make_model(config, kind, 3)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3, betas=(0.9, 0.95), weight_decay=0.0)
    drawn = draw_interval(0, run.states[0], 4, 1.0, 1.0, run.words(0))
    for inputs, labels in zip(drawn.inputs, drawn.labels, strict=True):
        optimizer.zero_grad()
        own_loss(model, kind, Examples(inputs, labels)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    run.train([0])
    torch.testing.assert_close(run.rows[0].weights[: run.layout.size], Layout(model).flatten(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "kind", "executor"),
    [*((config, kind, "batched") for config, kind in MODELS), (LLAMA, "classification", "compiled")],
    ids=[*IDS, "compiled"],
)
def test_populations_agree_with_single(config: Any, kind: Kind, executor: str) -> None:
    settings = [
        {},
        {"regularisation": 4},
        {"distillation": "teacher"},
        {"distillation": "averaged", "augmentation": "token_noise"},
        {"augmentation": "span_masking"},
    ]

    def trained(executor: str, replicas: int, seeds: list[int]) -> list[tuple[float, ...]]:
        run = Run(make_model(config, kind), replicas, executor)
        for row, seed in enumerate(seeds):
            run.load(row, make_problem(config, kind, seed, **settings[seed]))
            if seed == 4:
                run.fresh_adapter(row)
        found = []
        for _ in range(2):
            run.train(range(replicas))
            found.append(
                [(one.validation_loss, one.train_loss, one.gradient_norm) for one in run.evaluate(range(replicas))]
            )
        return [sum(rows, ()) for rows in zip(*found, strict=True)]

    together = trained(executor, 5, [0, 1, 2, 3, 4])
    for seed in range(5):
        (alone,) = trained("single", 1, [seed])
        assert together[seed] == pytest.approx(alone, rel=2e-4)


def test_populations_of_models_that_see_ahead_are_refused() -> None:
    """Their masks would be hidden from them; one alone trains by its own class."""
    config = BertConfig(
        vocab_size=40, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=39,
        num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0,
    )  # fmt: skip
    with pytest.raises(LlmoError, match="a decoder"):
        Run(make_model(config, "classification"), 2, "batched")
    Run(make_model(config, "classification"), 1)
