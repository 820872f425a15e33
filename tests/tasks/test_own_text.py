"""A folder of text as the target of an environment: what is drawn, where windows lie, and bad folders."""

from pathlib import Path

import numpy as np
import pytest

from llmo.cli import main
from llmo.errors import LlmoError
from llmo.evaluation.result import tuned_job
from llmo.evaluation.rollout import play
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import env_spec
from llmo.tasks.own_text import load_folder, text_sha256
from llmo.tasks.text import DOMAINS, load_corpus, load_tokenizer, raw_text

ENV = "llmo/LanguageModel-v1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Docstrings with every letter e replaced, so that it is nobody's."""
    text = raw_text("test", "training", "docstrings").replace("e", "é")
    for name, start, size in (("train", 0, 60_000), ("valid", 60_000, 12_000), ("test", 72_000, 12_000)):
        (tmp_path / f"{name}.txt").write_text(text[start : start + size])
    return tmp_path


def test_its_text_is_the_target_and_each_split_is_its_file(folder: Path) -> None:
    spec, tokenizer = env_spec(f"{ENV}:{folder}"), load_tokenizer()
    texts = {name: (folder / f"{name}.txt").read_text() for name in ("train", "valid", "test")}
    for index in range(12):
        instance = spec.draw("test", index, 1.0)
        assert instance.domain == str(folder)
        assert instance.base in ("", *DOMAINS)
        assert str(folder) not in instance.teacher
        task = build_problem(instance).task
        for windows, name in ((task.validation.inputs, "valid"), (task.test.inputs, "test")):
            assert all(tokenizer.decode(row.tolist()).strip("\ufffd") in texts[name] for row in windows)
        for source, tokens in zip(instance.sources, task.sources, strict=True):
            inside = tokenizer.decode(tokens.tolist()).strip("\ufffd") in texts["train"]
            assert inside == (source.kind == "clean")


def test_it_is_played_and_its_hash_is_in_the_record(folder: Path) -> None:
    (record,) = play([tuned_job(f"{ENV}:{folder}", "test", 0, "cosine", budget=0.3)])
    assert np.isfinite(record.result.test_loss)
    assert record.result.corpus_sha256 == text_sha256(str(folder)) != load_corpus().sha256


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("valid", None, "valid.txt"),
        ("test", b"", "at least 1000"),
        ("train", b"caf\xe9 " * 2000, "UTF-8"),
    ],
)
def test_a_bad_folder_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, named: str
) -> None:
    file = folder / f"{name}.txt"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    load_folder.cache_clear()
    out = folder / "out"
    assert main(["benchmark", "--agents", "keep", "--data", str(folder), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert not (out / "scores.json").exists()


def test_an_environment_without_folders_says_so(folder: Path) -> None:
    with pytest.raises(LlmoError, match="llmo/Adapters-v0 alone"):
        env_spec(f"llmo/Adapters-v0:{folder}")
