"""Labelled examples in the library's text: planted sources, and what the parts share."""

import ast
import itertools

import pytest

from llmo.tasks.library_examples import TAGS, TOPICS, _summaries, _tags, _topics, library_examples
from llmo.tasks.text import PARTS, SPLITS

SOURCE = '''
import os.path as p
from a import b


class Thing(Base):
    def run(self, count=1):
        """Run the thing as often as it is wanted.

        More of it.
        """
        self.left = os.path.join(count, self.x.y)
        return max(self.left, 10)
'''


def test_tokens_have_the_tags_of_what_they_are_part_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmo.tasks.library_examples.WORDS", 1)
    examples = list(_tags(SOURCE, ast.parse(SOURCE)))
    example = {key: [value for one in examples for value in one[key]] for key in ("tokens", "tags")}
    found = list(zip(example["tokens"], example["tags"], strict=True))
    assert found[:5] == [("import", "O"), ("os", "B-module"), (".", "I-module"), ("path", "I-module"), ("as", "O")]
    assert found[8:10] == [("import", "O"), ("b", "B-module")]
    definitions = [word for word, tag in found if tag == "B-definition"]
    parameters = [word for word, tag in found if tag == "B-parameter"]
    assert (definitions, parameters) == (["Thing", "run"], ["self", "count"])
    spans = []
    for word, tag in found:
        if tag.startswith("B-"):
            spans.append([tag[2:], word])
        elif tag.startswith("I-"):
            assert tag[2:] == spans[-1][0]
            spans[-1][1] += word
    assert [text for kind, text in spans if kind == "call"] == ["os.path.join", "max"]
    assert [text for kind, text in spans if kind == "attribute"] == ["self.left", "self.x.y", "self.left"]
    assert {tag for _, tag in found} <= set(TAGS)


def test_a_summary_is_the_first_line_and_its_source_is_without_it() -> None:
    (example,) = _summaries(SOURCE, ast.parse(SOURCE))
    assert example["target"] == "Run the thing as often as it is wanted."
    assert example["source"].startswith("def run(self, count=1):\n    self.left = os.path")
    assert "often" not in example["source"]


def test_a_topic_is_that_of_the_module() -> None:
    tree = ast.parse('"""A docstring of some length."""\n')
    assert list(_topics("email.parser", tree)) == [{"text": "A docstring of some length.", "label": "internet"}]
    assert list(_topics("unheard_of", tree)) == []


def test_every_cell_has_examples_and_no_two_share_one() -> None:
    for kind in ("topics", "tags", "summaries"):
        seen: set[str] = set()
        for part, split in itertools.product(PARTS, SPLITS):
            examples = library_examples(kind, part, split)  # type: ignore[arg-type]
            keys = {"".join(next(iter(example.values())))[:40] for example in examples}
            assert len(keys) == len(examples) >= 50
            assert not keys & seen
            seen |= keys
    assert {example["label"] for example in library_examples("topics", "test", "training")} == set(TOPICS)
