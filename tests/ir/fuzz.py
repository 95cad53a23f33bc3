"""Texts that are nearly IR: `python tests/ir/fuzz.py 100000` throws so many at the parser.

Half are made from the grammar with wrong words in some places, half are dumps with cuts, copies and
changed bytes. Each must parse, or be refused with IRParseError; nothing else may come out.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import models

import lowgrad
from lowgrad.errors import IRParseError
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.text import parse, print_graph
from lowgrad.ir.types import BY_SHORT

WORDS = [*REGISTRY, *BY_SHORT, "graph", "return", "aliases", "True", "None", "inf", "nan"]
MARKS = [*"(){}[],:=@%#", '"', "\\", "\n", " ", "\0", "é", "\ud800", "-1", "0.5e9", "9" * 25]


def corpus() -> list[str]:
    """Stages of the test models' steps, the shorter ones."""
    texts = []
    for make in models.MODELS.values():
        step, batch = make()
        compiled = lowgrad.compile(step).lower(*batch)
        texts += [print_graph(g, locations=True) for g in compiled.graphs.values()]
    return sorted(set(texts), key=len)[: len(texts) // 2]


def from_grammar(rng: random.Random) -> str:
    """A graph of a few nodes; now and then with something where it does not belong."""

    def off(right: str) -> str:
        return rng.choice(WORDS + MARKS) if rng.random() < 0.03 else right

    def type_() -> str:
        sizes = ",".join(off(str(rng.randint(0, 5))) for _ in range(rng.randint(0, 3)))
        return f"{off(rng.choice([*BY_SHORT]))}[{sizes}]"

    def constant(depth: int = 0) -> str:
        kind = rng.randrange(6)
        if kind == 0 and depth < 40:
            inner = ", ".join(constant(depth + 1) for _ in range(rng.randint(0, 3)))
            return f"({inner}{off(',')})"
        return off(rng.choice(["1", "-2", "0.5", "True", "None", "inf", "f32", '"s"']))

    names = [f"%v{i}" for i in range(rng.randint(1, 8))]
    known = [names[0]]
    lines = [f"graph {off('g')}({off(names[0])}: {type_()}) {{"]
    for name in names[1:]:
        op = off(rng.choice([*REGISTRY]))
        operands = ", ".join(off(rng.choice(known)) for _ in range(rng.randint(0, 3)))
        keys = rng.sample(["dims", "shape", "dtype", "value", "dim", "kind"], rng.randint(0, 2))
        attrs = ", ".join(f"{off(k)}={constant()}" for k in keys)
        body = f" {{ {from_grammar(rng)} }}" if rng.random() < 0.05 else ""
        lines.append(f"  {off(name)} = {op} {operands} {{{attrs}}} : {type_()}{body}")
        known.append(name)
    lines.append(f"  {off('return')} {off(rng.choice(known))}\n}}")
    return "\n".join(lines)


def mutated(text: str, rng: random.Random) -> str:
    """A text with some cuts, copies and other bytes."""
    start = rng.randrange(max(len(text) - 3000, 1))
    text = text[: rng.choice([len(text), 3000])] if rng.random() < 0.5 else text[start:][:3000]
    for _ in range(rng.randint(1, 5)):
        at, length = rng.randrange(len(text) + 1), rng.choice([0, 1, 3, 20, 200])
        other = rng.randrange(len(text) + 1)
        put = rng.choice([rng.choice(MARKS), rng.choice(WORDS), text[other : other + length], ""])
        text = text[:at] + put + text[at + length :]
    return text


def fuzz(count: int, seed: int = 0) -> tuple[int, int]:
    """How many of `count` texts parsed, and how many were refused."""
    rng, texts = random.Random(seed), corpus()
    parsed = refused = 0
    for number in range(count):
        text = from_grammar(rng) if number % 2 else mutated(rng.choice(texts), rng)
        try:
            graph = parse(text)
        except IRParseError:
            refused += 1
            continue
        parsed += 1
        printed = print_graph(graph)
        assert print_graph(parse(printed)) == printed
    return parsed, refused


if __name__ == "__main__":
    started = time.perf_counter()
    good, bad = fuzz(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    print(f"{good} parsed, {bad} refused, in {time.perf_counter() - started:.0f} s")
