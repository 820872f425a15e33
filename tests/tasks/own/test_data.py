"""A user's files become examples, and whatever is wrong with them is said with its place."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from llmo.errors import LlmoError
from llmo.mdp.own_source import OwnSource, write_own
from llmo.tasks.own.data import load_data
from llmo.tasks.own.hub import LISTED

ROWS = [{"text": f"example {number}", "label": ("good", "bad")[number % 2]} for number in range(30)]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder: Path, suffix: str, rows: list[dict[str, Any]], name: str = "train") -> None:
    file, table = folder / f"{name}{suffix}", pyarrow.Table.from_pylist(rows)
    if suffix == ".jsonl":
        file.write_text(lines(rows))
    elif suffix == ".csv":
        text = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
        file.write_text("\n".join(text) + "\n")
    elif suffix == ".parquet":
        parquet.write_table(table, file)
    else:
        # `datasets` writes streams, others files with a footer.
        with ipc.new_stream(file, table.schema) if name == "train" else ipc.new_file(file, table.schema) as sink:
            sink.write_table(table)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".arrow"])
def test_every_format_gives_the_same_examples(tmp_path: Path, suffix: str) -> None:
    for name, part in (("train", ROWS[:20]), ("validation", ROWS[20:25]), ("test", ROWS[25:])):
        write(tmp_path, suffix, part, name)
    found = load_data(str(tmp_path), "classification")
    assert found.training == (ROWS[:20],)
    assert (found.validation, found.test) == (ROWS[20:25], ROWS[25:])
    assert found.notes == ("guessed: text is column 'text', label is column 'label'",)


def test_a_file_alone_is_split_by_a_seed(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(lines(ROWS))
    found, again, other = (load_data(str(file), "classification", seed=seed) for seed in (0, 0, 1))
    assert [len(found.training[0]), len(found.validation), len(found.test)] == [24, 3, 3]
    together = [*found.training[0], *found.validation, *found.test]
    assert sorted(row["text"] for row in together) == sorted(row["text"] for row in ROWS)
    assert found == again and found.test != other.test
    assert "3 for validation and 3 for test, by seed 0" in found.notes[1]


def test_running_text_is_cut_into_stretches_that_add_up(tmp_path: Path) -> None:
    text = "".join(f"line {number} of the text\n" for number in range(1000))
    (tmp_path / "book.txt").write_text("\ufeff" + text)
    found = load_data(str(tmp_path / "book.txt"), "causal_lm")
    pieces = [value["text"] for part in (found.training[0], found.validation, found.test) for value in part]
    assert sum(map(len, pieces)) == len(text)
    assert sorted("".join(pieces).splitlines()) == sorted(text.splitlines())
    assert len(found.test) == len(found.validation) == pytest.approx(10, abs=1)


def test_several_training_files_are_sources(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl", ROWS[:10], "train_clean")
    write(tmp_path, ".jsonl", ROWS[10:20], "train_web")
    write(tmp_path, ".jsonl", ROWS[20:], "test")
    found = load_data(str(tmp_path), "classification")
    assert len(found.training) == 2 and found.training[1] == ROWS[10:20]
    assert len(found.validation) == 1 and len(found.test) == 10


@pytest.mark.parametrize(
    ("task", "row", "asked", "roles"),
    [
        ("causal_lm", {"id": 3, "content": "x"}, {}, {"text": "content"}),
        ("causal_lm", {"prompt": "x", "completion": "y"}, {}, {"prompt": "prompt", "completion": "completion"}),
        ("causal_lm", {"messages": [{"role": "user", "content": "x"}]}, {}, {"messages": "messages"}),
        ("causal_lm", {"prompt": "x", "completion": "y"}, {"text": "prompt"}, {"text": "prompt"}),
        ("classification", {"body": "x", "Intent": "a"}, {}, {"text": "body", "label": "Intent"}),
        ("classification", {"a": "x", "b": "y"}, {"text": "b", "label": "a"}, {"text": "b", "label": "a"}),
        ("regression", {"text": "x", "score": 1.5}, {}, {"text": "text", "score": "score"}),
        ("tagging", {"tokens": ["x"], "ner_tags": [0]}, {}, {"tokens": "tokens", "tags": "ner_tags"}),
        ("seq2seq", {"article": "x", "highlights": "y"}, {}, {"source": "article", "target": "highlights"}),
        ("seq2seq", {"source": "x", "target": "y"}, {}, {"source": "source", "target": "target"}),
    ],
)
def test_columns_are_guessed_or_named(
    tmp_path: Path, task: Any, row: dict[str, Any], asked: dict[str, str], roles: dict[str, str]
) -> None:
    # Two different labels, where there are labels.
    other = {
        name: f"{value} too" if isinstance(value, str) else [1] if value == [0] else value
        for name, value in row.items()
    }
    (tmp_path / "train.jsonl").write_text(lines(15 * [row, other]))
    found = load_data(str(tmp_path), task, asked)
    (column,) = {frozenset(value) for value in found.training[0]}
    if task != "regression":
        assert column == set(roles)
        assert {role: row[name] for role, name in roles.items()} in found.training[0]
    guess = ", ".join(f"{role} is column '{name}'" for role, name in roles.items())
    assert (f"guessed: {guess}".replace("score is", "label is") in found.notes) is not bool(asked)


BAD = {
    "empty file": (b"  \n", ["train.jsonl'", "not empty"]),
    "one example": (lines(ROWS[:1]).encode(), ["number of examples", "1 in"]),
    "wrong column": (
        lines([{"a": 1.5, "b": None}] * 30).encode(),
        ["train.jsonl:1", "a (float), b (null)", "--columns"],
    ),
    "missing column": (lines([*ROWS, {"text": "x"}]).encode(), ["train.jsonl:31", "the column label"]),
    "mixed types": (lines([*ROWS, {"text": 3, "label": "good"}]).encode(), ["train.jsonl:31", "text", "not int"]),
    "null": (lines([*ROWS, {"text": None, "label": "good"}]).encode(), ["train.jsonl:31", "not null"]),
    "blank text": (lines([*ROWS, {"text": " ", "label": "good"}]).encode(), ["train.jsonl:31", "blank"]),
    "latin-1": (lines(ROWS).encode() + b'{"text": "caf\xe9", "label": "good"}\n', ["train.jsonl:31", "0xe9"]),
    "NUL bytes": (lines(ROWS).encode() + b"\0\n", ["train.jsonl:31", "NUL"]),
    "truncated": (lines(ROWS).encode()[:-9], ["train.jsonl:30", "a whole JSON object"]),
    "no object": (lines(ROWS).encode() + b"[1]\n", ["train.jsonl:31", "not a list"]),
    "long line": (lines(ROWS).encode() + b"x" * 60_000_000, ["train.jsonl:31", "at most 16 MB, not of 60"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, case: str) -> None:
    content, words = BAD[case]
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(LlmoError) as raised:
        load_data(str(tmp_path), "classification")
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(ROWS).encode())
    assert load_data(str(tmp_path), "classification").roles == ("text", "label")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow"])
def test_truncated_tables_are_refused(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, suffix, ROWS, "test")
    content = (tmp_path / f"test{suffix}").read_bytes()
    (tmp_path / f"test{suffix}").unlink()
    (tmp_path / f"train{suffix}").write_bytes(content[: -len(content) // 3 - 1] if suffix != ".csv" else content[:-2])
    with pytest.raises(LlmoError, match=rf"train{suffix}.*a whole"):
        load_data(str(tmp_path), "classification")


def test_csv_lines_have_as_many_values_as_columns(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('text,label\n"two\nlines",good\nx,bad,more\n')
    with pytest.raises(LlmoError, match=r"train.csv:4.*2 values, as the first line has, not 3"):
        load_data(str(tmp_path), "classification")


def test_a_label_that_is_never_learned_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl", ROWS)
    write(tmp_path, ".jsonl", [{"text": "x", "label": "ugly"}], "test")
    with pytest.raises(LlmoError, match="label in the test examples 'ugly'.*bad, good"):
        load_data(str(tmp_path), "classification")


def test_overlap_is_counted_aloud(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl", ROWS)
    write(tmp_path, ".jsonl", [*ROWS[3:5], {"text": "new", "label": "bad"}], "test")
    assert "warning: 2 of 3 test examples are training examples too" in load_data(str(tmp_path), "classification").notes


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], ["a folder with a file train"]),
        (["train.jsonl", "test.csv"], ["one format"]),
        (["train.jsonl", "test_a.jsonl", "test_b.jsonl"], ["at most 1 test"]),
        (["train.txt"], ["data for classification", "a table"]),
    ],
)
def test_folders_that_make_no_sense_are_refused(tmp_path: Path, names: list[str], words: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text(lines(ROWS))
    with pytest.raises(LlmoError) as raised:
        load_data(str(tmp_path), "classification")
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_a_data_set_that_nobody_can_give_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LlmoError, match="data 'nobody/nothing'.*that the hub can give"):
        load_data("nobody/nothing", "classification")


CONFIGURED = """---
configs:
- config_name: cola
  data_files: cola/*.jsonl
- config_name: sst2
  data_files: sst2/*.jsonl
---
"""


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a data set of the hub with two configurations."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "README.md").write_text(CONFIGURED)
    for name, rows in (("cola", ROWS), ("sst2", [{**row, "text": f"other {row['text']}"} for row in ROWS])):
        (tmp_path / "copy" / name).mkdir()
        write(tmp_path / "copy" / name, ".jsonl", rows)
    return tmp_path / "copy"


@pytest.mark.parametrize("place", ["copy", "./copy"])
def test_a_configuration_is_named_after_a_colon(configured: Path, place: str) -> None:
    for name, begin in (("cola", "example"), ("sst2", "other example")):
        found = load_data(f"{place}:{name}", "classification")
        together = [*found.training[0], *found.validation, *found.test]
        assert len(together) == 30 and all(row["text"].startswith(begin) for row in together)
    write_own(configured / "own.json", OwnSource("scratch:8x1", f"{place}:cola", "classification"), 4, 0, 1.0)
    assert json.loads((configured / "own.json").read_text())["data"] == f"{configured}:cola"


def test_configurations_are_listed_where_one_is_missing_or_wrong(configured: Path) -> None:
    for data, words in (
        ("copy:", "data 'copy:' is not usable: allowed is copy:CONFIGURATION with one of cola, sst2"),
        ("copy:sst", "configuration of copy 'sst' is not usable: allowed is one of cola, sst2; did you mean 'sst2'?"),
    ):
        with pytest.raises(LlmoError) as raised:
            load_data(data, "classification")
        assert str(raised.value) == words
    with pytest.raises(LlmoError, match="data 'nobody/nothing:cola'.*that the hub can give"):
        load_data("nobody/nothing:cola", "classification")


def test_of_many_configurations_the_nearest_are_listed(configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{letter}{letter}_{number}" for letter in "abcdefgh" for number in range(10)]
    monkeypatch.setattr("llmo.tasks.own.hub._configurations", lambda name: names)
    with pytest.raises(LlmoError, match="did you mean 'hh_9'") as raised:
        load_data("copy:hh9", "classification")
    assert len(raised.value.allowed) == LISTED
