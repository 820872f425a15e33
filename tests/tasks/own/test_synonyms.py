"""A table of synonyms: read as it is meant, or refused with its line."""

import json
from pathlib import Path

import pytest

from llmo.errors import LlmoError
from llmo.tasks.own.synonyms import read_synonyms


def test_a_table_is_read_from_any_format(tmp_path: Path) -> None:
    table = {"quick": ("fast", "in no time"), "dog": ("hound",)}
    comma, lines = tmp_path / "words.csv", tmp_path / "words.jsonl"
    comma.write_text('word,synonyms\nquick,"fast; in no time"\ndog,hound\n')
    lines.write_text("\n".join(json.dumps({"word": w, "synonyms": "; ".join(s)}) for w, s in table.items()))
    assert read_synonyms(comma) == read_synonyms(lines) == table


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("word,others\nquick,fast\n", ["others", "word and synonyms"]),
        ("word,synonyms,more\nquick,fast,1\n", ["more", "word and synonyms"]),
        ("word,synonyms\nquick,\n", [":2", "at least one synonym"]),
        ("word,synonyms\nquick,fast\n,slow\n", [":3", "at least one synonym"]),
        ("word,synonyms\n", ["a file with records"]),
        ("", ["not empty"]),
    ],
)
def test_another_table_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "words.csv"
    file.write_text(text)
    with pytest.raises(LlmoError) as error:
        read_synonyms(file)
    assert all(word in str(error.value) for word in words), error.value
