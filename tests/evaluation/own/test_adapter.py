"""The delivered factors as PEFT's own adapter: its loader gives the merged model's logits on a base from a folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    PretrainedConfig,
)

import llmo
from llmo.cli import main
from llmo.engine.adapter_kinds import shrink
from llmo.engine.adapters import grow
from llmo.engine.layout import FactorLayout
from llmo.engine.models import ModelShape, model_config
from llmo.engine.own_models import fresh_model
from llmo.errors import LlmoError
from llmo.evaluation.own.adapter import adapter_model
from llmo.evaluation.own.export import improved_model, save_model

IDS = torch.tensor([[5, 9, 17, 3], [40, 2, 8, 30]])
GPT2 = GPT2Config(vocab_size=64, n_embd=8, n_layer=2, n_head=2, pad_token_id=0)
BERT = BertConfig(
    vocab_size=64, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
)


def trained_factors(layout: FactorLayout, rank: int) -> torch.Tensor:
    """Factors whose B is not zero any more."""
    factors = torch.zeros(layout.size)
    grow(layout.factors, factors, 0, rank, 0)
    for linear in layout.factors:
        linear.factors(factors[None])[1][0, :, :rank] = 0.1 * torch.randn(linear.outputs, rank)
    return factors


@pytest.mark.parametrize(
    ("auto", "config", "rank"),
    [
        (AutoModelForCausalLM, model_config(ModelShape(8, 2)), 8),
        (AutoModelForSequenceClassification, model_config(ModelShape(8, 2)), 4),
        (AutoModelForSequenceClassification, GPT2, 2),
        (AutoModelForTokenClassification, BERT, 4),
    ],
)
def test_logits_are_those_of_the_merged_model(tmp_path: Path, auto: Any, config: PretrainedConfig, rank: int) -> None:
    """Also where the base's folder has another head, as that of a pre-trained body has."""
    torch.manual_seed(0)
    config.num_labels, config.pad_token_id = 3, 0
    model = auto.from_config(config).eval()
    factors = trained_factors(FactorLayout(model), rank)
    merged = improved_model(model, factors, rank)
    tokenizer = fresh_model("fresh", model_config(ModelShape(8, 1)), "causal_lm").tokenizer
    save_model(adapter_model(model, factors), tokenizer, tmp_path / "adapter")
    for head in ("score", "classifier"):
        if hasattr(model, head):
            torch.nn.init.normal_(getattr(model, head).weight)
    model.save_pretrained(tmp_path / "base")
    base = auto.from_pretrained(tmp_path / "base")
    found = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        wanted = merged(IDS).logits
        torch.testing.assert_close(found(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(model(IDS).logits, wanted, rtol=0.01)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (rank, 2 * rank)
    assert {path.suffix for path in (tmp_path / "adapter").iterdir()} <= {".json", ".safetensors", ".md"}


def test_a_rank_that_the_run_has_changed_is_the_adapters() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(model_config(ModelShape(8, 1))).eval()
    layout = FactorLayout(model)
    factors = trained_factors(layout, 4)
    grow(layout.factors, factors, 4, 8, 1)
    for rank in (8, 2):
        if rank == 2:
            shrink(layout.base, factors, 2)
        adapted = adapter_model(model, factors)
        assert adapted.peft_config["default"].r == rank
        with torch.no_grad():
            wanted = improved_model(model, factors, rank)(IDS).logits
            torch.testing.assert_close(adapted(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-5)


def test_the_command_delivers_the_same_as_an_adapter_and_merged(tmp_path: Path) -> None:
    own = fresh_model("fresh", model_config(ModelShape(8, 1)), "causal_lm")
    save_model(own.build(None, 0), own.tokenizer, tmp_path / "base")
    (tmp_path / "text.txt").write_text("the cat sat on the mat and looked at the dog\n" * 400)
    given = ["improve", "--model", str(tmp_path / "base"), "--data", str(tmp_path / "text.txt"), "--task", "causal_lm"]
    given += ["--lora", "4", "--budget", "3e8flops", "--agent", "scripted", "--out", str(tmp_path / "out")]
    assert main([*given, "--keep_adapter", "true"]) == 0
    shutil.copytree(tmp_path / "out" / "model", tmp_path / "adapter")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "adapter")("the cat", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    untouched = base(**tokens).logits
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert main([*given, "--resume", "true"]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    torch.testing.assert_close(adapted(**tokens).logits, merged(**tokens).logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(untouched, merged(**tokens).logits, rtol=0.01)


def test_an_adapter_that_there_is_none_of_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("a cat\n" * 400)
    given = ["improve", "--data", str(tmp_path / "text.txt"), "--task", "causal_lm", "--out", str(tmp_path / "out")]
    for more, word in ((["--model", "./base"], "lora"), (["--model", "scratch:8x1", "--lora", "4"], "scratch:8x1")):
        assert main([*given, *more, "--keep_adapter", "true"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "keep_adapter" in error and word in error, error
    assert not (tmp_path / "out").exists()
    own = fresh_model("fresh", model_config(ModelShape(8, 1)), "causal_lm")
    with pytest.raises(LlmoError, match="given by out"):
        llmo.improve(
            own.build(None, 0), own.tokenizer, ["a cat"] * 9, task="causal_lm", budget="1min", lora=4, keep_adapter=True
        )
