"""Goldens: texts that tests compare with files named after them, and rewrite on request."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOLDENS = Path(__file__).parent / "goldens"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/goldens; then read the diff"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """`golden(x)` compares str(x) with tests/goldens/<test>.txt; once a test."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.name).strip("-")
    path = GOLDENS / f"{name}.txt"

    def check(x: Any) -> None:
        text = f"{x}\n"
        if request.config.getoption("--update-golden"):
            GOLDENS.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no {path.name} yet: run with --update-golden, and read it"
        assert text == path.read_text(encoding="utf-8"), "if meant, run with --update-golden"

    return check
