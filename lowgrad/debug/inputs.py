"""Inputs for a graph that was dumped: saved ones, or made up."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.codegen.check import smallest_range
from lowgrad.errors import ArgumentError
from lowgrad.ir.graph import Graph
from lowgrad.ir.types import TensorType

Array = npt.NDArray[Any]


def saved(graph: Graph, path: Path) -> list[Array]:
    """The arrays of an .npz, in order, as the inputs of `graph`.

    Raises ArgumentError if there are too few, or of other shapes, or if it is no such file.
    """
    try:
        # Opened here, since NumPy leaves a file open that is no whole .npz.
        with path.open("rb") as stream, np.load(stream) as file:
            held = dict(file)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ArgumentError(f'"{path}" cannot be read as an .npz: {why}') from error
    if len(held) != len(graph.inputs):
        raise ArgumentError(
            f"{path.name} has {len(held)} arrays, {graph.name} has {len(graph.inputs)} inputs"
        )
    arrays = []
    for (name, array), value in zip(held.items(), graph.inputs, strict=True):
        wanted = value.type.dtype.numpy
        if wanted.name == "bfloat16" and array.dtype == np.uint16:
            array = array.view(wanted)
        if array.shape != value.type.shape or array.dtype != wanted:
            raise ArgumentError(
                f"{path.name}: {name} is {array.dtype}{[*array.shape]}, "
                f"the input {value.hint or name} is {value.type}"
            )
        arrays.append(array)
    return arrays


def save(path: Path, arrays: Sequence[Array]) -> None:
    """Write arrays so that `saved` reads them back."""
    bits = [a.view(np.uint16) if a.dtype.name == "bfloat16" else a for a in arrays]
    np.savez(path, *bits)


def made_up(graph: Graph, seed: int = 0, *, signed: bool = False) -> list[Array]:
    """Random arrays for the inputs: floats from 0.1 to 1, or to both sides of 0 if `signed`.

    Integers are valid indices wherever the graph uses them.
    """
    rng = np.random.default_rng(seed)
    below = smallest_range(graph.nodes)
    return [_random(value.type, rng, below, signed) for value in graph.inputs]


def _random(type_: TensorType, rng: np.random.Generator, below: int, signed: bool) -> Array:
    dtype = type_.dtype
    if dtype.is_floating_point:
        made = rng.uniform(0.1, 1.0, type_.shape)
        if signed:
            made = made * rng.choice([-1.0, 1.0], type_.shape)
        return np.asarray(made, np.float64).astype(dtype.numpy)
    return np.asarray(rng.integers(0, below, type_.shape)).astype(dtype.numpy)
