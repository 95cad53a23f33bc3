"""What lowgrad does, as records of Python's `logging`: LOWGRAD_LOG=record,passes,fusion.

Each topic is a logger, "lowgrad.passes"; a record's `data` is a dict of what its text says, for
handlers that write JSON. Without LOWGRAD_LOG a program's own logging decides what is seen.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from lowgrad import config


def is_on(topic: str) -> bool:
    """Whether anybody sees records of this topic; ask before making expensive ones."""
    return _logger(topic).isEnabledFor(logging.INFO)


def event(topic: str, what: str, **data: Any) -> None:
    """Say that `what` happened, with its numbers."""
    logger = _logger(topic)
    if logger.isEnabledFor(logging.INFO):
        text = "".join(f"  {name}={_shown(value)}" for name, value in data.items())
        logger.info("%s%s", what, text, extra={"data": {"what": what, **data}})


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return f'"{text}"' if " " in text else text


@functools.cache
def _logger(topic: str) -> logging.Logger:
    _configure()
    return logging.getLogger(f"lowgrad.{topic}")


@functools.cache
def _configure() -> None:
    """Do what LOWGRAD_LOG asks for: chosen topics go to standard error."""
    topics = config.settings().log
    if not topics:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    for topic in topics:
        logger = logging.getLogger(f"lowgrad.{topic}")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False
