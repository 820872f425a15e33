"""The embedded corpus: nothing leaks between cells, and the cache gives what was built or is built again."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from llmo.tasks import text
from llmo.tasks.standard_library import PARAGRAPH
from llmo.tasks.text import CELLS, Corpus, assignment, load_corpus, load_tokenizer, raw_text

SHA256 = "from llmo.tasks.text import load_corpus; print(load_corpus().sha256)"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


def test_every_cell_has_text_and_int16_tokens_that_cannot_be_changed(corpus: Corpus) -> None:
    vocabulary = load_tokenizer().get_vocab_size()
    assert 512 <= vocabulary <= 1024
    for cell in CELLS:
        tokens = corpus.tokens[cell]
        assert tokens.dtype == np.int16 and len(tokens) > 3_000 and corpus.bytes[cell] > len(tokens)
        assert 0 <= tokens.min() and tokens.max() < vocabulary
        with pytest.raises(ValueError):
            tokens[0] = 1


def test_no_paragraph_stands_in_two_cells() -> None:
    owners: dict[str, tuple[str, str, str]] = {}
    for domain, part, split in CELLS:
        for paragraph in raw_text(part, split, domain).split("\n\n"):
            key = " ".join(paragraph.split())
            if len(key) >= PARAGRAPH:
                assert owners.setdefault(key, (domain, part, split)) == (domain, part, split), key
    assert len(owners) > 1_000


def test_the_tokenizer_gives_back_what_it_got(corpus: Corpus) -> None:
    tokenizer = load_tokenizer()
    for sample in (
        "def f(x):\n\treturn  x ** 2  # ü ∑ 🙂\r\n",
        "",
        " \n\n ",
        raw_text("test", "test", "code")[:20_000],
    ):
        assert tokenizer.decode(tokenizer.encode(sample).ids) == sample
    cell = ("prose", "dev", "validation")
    assert tokenizer.decode(corpus.tokens[cell].tolist()) == raw_text("dev", "validation", "prose")


def test_names_alone_decide_and_the_shares_hold() -> None:
    names = [f"module{i}" for i in range(4000)]
    parts = [assignment(name)[0] for name in names]
    assert assignment("json.decoder") == assignment("json.decoder")
    assert parts.count("train") / 4000 == pytest.approx(0.6, abs=0.04)
    assert parts.count("dev") / 4000 == pytest.approx(0.2, abs=0.03)


def test_another_process_builds_the_same_corpus(
    corpus: Corpus, python: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    built = python("-c", SHA256, LLMO_CACHE=str(tmp_path / "cache"), PYTHONHASHSEED="7")
    assert built.stdout.strip() == corpus.sha256


@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied", "unwritable"])
def test_a_cache_that_is_not_what_was_written_is_built_again(
    corpus: Corpus, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLMO_CACHE", str(folder))
    if damage == "unwritable":
        folder.write_text("a file where the folder should be")
    else:
        load_corpus.__wrapped__()
        (file,) = folder.iterdir()
        content = bytearray(file.read_bytes())
        content[-1000] ^= 1
        file.write_bytes({"flipped": bytes(content), "truncated": bytes(content[:5000]), "emptied": b""}[damage])
    again = load_corpus.__wrapped__()
    assert again.sha256 == corpus.sha256 and again.bytes == corpus.bytes
    assert all(np.array_equal(again.tokens[cell], corpus.tokens[cell]) for cell in CELLS)
    if damage != "unwritable":
        (file,) = folder.iterdir()
        assert text._read(file) is not None
