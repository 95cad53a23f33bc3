"""Words of IR text, one at a time, and errors that point at one of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from itertools import islice
from typing import NamedTuple, NoReturn

from lowgrad.errors import IRParseError

# Far above any program's text; a bound, so that a wrong file is refused at once.
MAX_CHARS = 1 << 26
_MAX_SHOWN = 90

_TOKEN = re.compile(
    r"""(?P<value>%[A-Za-z0-9_.]+)
      | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<float>-inf\b | -?[0-9]+(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+))
      | (?P<int>-?[0-9]+)
      | (?P<string>"(?:[^"\\\x00-\x1f]|\\.)*")
      | (?P<mark>[](){}[,:=@])""",
    re.VERBOSE,
)
# From # on, a line is a comment.
_SPACE = re.compile(r"(?:[ \t\r\n]|\#[^\n]*)*")
_REST_OF_LINE = re.compile(r"[^\n]*")


class Token(NamedTuple):
    """A word: its kind (a group of the pattern above, or `end`), its text, where it starts."""

    kind: str
    text: str
    start: int

    def __str__(self) -> str:
        return "the end of the text" if self.kind == "end" else quoted(self.text)


class Reader:
    """A text and the next word in it."""

    def __init__(self, text: str, file: str = "<ir>") -> None:
        self.text, self.file = text, file
        self.token = Token("end", "", 0)
        if len(text) > MAX_CHARS:
            self.fail(f"the text is longer than {MAX_CHARS} characters")
        self._read(0)

    def advance(self) -> Token:
        """Step over the next word and return it."""
        token = self.token
        self._read(token.start + len(token.text))
        return token

    def accept(self, text: str) -> bool:
        """Step over the next word if it is `text`."""
        if self.token.text != text or self.token.kind not in ("mark", "word"):
            return False
        self.advance()
        return True

    def expect(self, text: str) -> Token:
        """Step over the next word, which has to be `text`."""
        if self.token.text != text or self.token.kind not in ("mark", "word"):
            self.fail(f"expected {quoted(text)}, found {self.token}")
        return self.advance()

    def expect_kind(self, kind: str, what: str) -> Token:
        """Step over the next word, which has to be of `kind`; `what` says what that would be."""
        if self.token.kind != kind:
            self.fail(f"expected {what}, found {self.token}")
        return self.advance()

    def rest_of_line(self) -> Token:
        """Step over everything up to the end of the line, as one word."""
        start = self.token.start
        found = _REST_OF_LINE.match(self.text, start)
        assert found is not None  # it matches nothing at least
        self._read(found.end())
        return Token("rest", found.group(), start)

    def fail(self, message: str, token: Token | None = None) -> NoReturn:
        """Raise IRParseError, pointing at `token` or else at the next word."""
        token = token or self.token
        before = self.text[: token.start]
        line, column = before.count("\n") + 1, token.start - (before.rfind("\n") + 1) + 1
        end = self.text.find("\n", token.start)
        source = self.text[len(before) - column + 1 : None if end < 0 else end]
        # One line, one column a character, whatever the bytes were.
        source = "".join(c if c.isprintable() else "?" for c in source[: column + _MAX_SHOWN])
        shown, caret = marked(source, column, len(token.text))
        raise IRParseError(
            message, line=line, column=column, file=self.file, operands=(shown, caret), at=""
        )

    def _read(self, position: int) -> None:
        space = _SPACE.match(self.text, position)
        assert space is not None  # it matches nothing at least
        start = space.end()
        if start == len(self.text):
            self.token = Token("end", "", start)
            return
        found = _TOKEN.match(self.text, start)
        if found is None:
            wrong = Token("wrong", self.text[start], start)
            self.fail(f"unexpected character {self.text[start]!a}", wrong)
        assert found.lastgroup is not None  # every alternative is a named group
        self.token = Token(found.lastgroup, found.group(), start)


def quoted(word: str) -> str:
    """`word` in quotes, for a message; its beginning, if it is long."""
    return f'"{word}"' if len(word) <= 40 else f'"{word[:37]}..."'


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean "mul"?` if one of `known` is like `word`, else nothing."""
    if len(word) > 100:
        return ""
    options: Collection[str] = list(islice(known, 1000))
    close = difflib.get_close_matches(word, options, 1)
    return f"; did you mean {quoted(close[0])}?" if close else ""


def marked(line: str, column: int, width: int) -> tuple[str, str]:
    """`line`, or the part of it that matters if it is long, and carets below from `column` on."""
    if column > _MAX_SHOWN // 2 and len(line) > _MAX_SHOWN:
        cut = column - _MAX_SHOWN // 2
        line, column = "... " + line[cut:], column - cut + 4
    if len(line) > _MAX_SHOWN:
        line = line[:_MAX_SHOWN] + " ..."
    width = max(1, min(width, len(line) - column + 1))
    return "  " + line, "  " + " " * (column - 1) + "^" * width
