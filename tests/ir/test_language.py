"""docs/ir.md says what the parser does; and 2,000 nearly right texts do it no harm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lowgrad.errors import IRParseError
from lowgrad.ir.text import parse, print_graph
from lowgrad.ir.types import BY_SHORT
from tests.ir.fuzz import fuzz

PAGE = (Path(__file__).parents[2] / "docs" / "ir.md").read_text(encoding="utf-8")


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]


def test_the_example_of_the_page_parses_and_prints_the_same():
    text = block("text")

    printed = print_graph(parse(text), locations=True)

    assert printed == "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def test_the_error_of_the_page_is_the_one_that_comes():
    text = block("text").replace("matmul %x", "matmal %x").split("\n")
    text = "\n".join([*text[1:2], "", *text[5:]])

    with pytest.raises(IRParseError, match='there is no op "matmal"; did you mean "matmul"') as e:
        parse(text)
    for part in ("there is no op", "did you mean", "^^^^^^"):
        assert part in str(e.value)
        assert part in block("text", 1)


def test_the_grammar_has_all_dtypes():
    rule = re.search(r"dtype     = (.*?) ;", block("ebnf"))[1]

    assert re.findall(r'"(\w+)"', rule) == list(BY_SHORT)


def test_every_rule_of_the_grammar_is_defined():
    text = block("ebnf")
    rules = set(re.findall(r"^(\w+) +=", text, re.MULTILINE))
    used = set(re.findall(r"\b[a-z]+\b", re.sub(r'"[^"]*"', "", text)))

    assert used - rules == {"name", "character", "int", "float", "string", "file", "function"}


def test_nearly_right_texts_are_parsed_or_refused():
    parsed, refused = fuzz(2000)

    assert parsed + refused == 2000
    assert parsed > 20, "some are right"
    assert refused > 1000
