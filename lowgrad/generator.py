"""Random streams: a seed and a count of draws, the same for eager, compiled, CPU and GPU."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

# Odd 64-bit constant of the golden ratio: spreads consecutive draw counts over NumPy's seed space.
_HOST_STREAM = 0x9E3779B97F4A7C15


class Generator:
    """A stream of random numbers, keyed by (seed, how many draws came before).

    Philox makes the numbers of a draw from its key alone, so nothing but two integers is state.
    """

    def __init__(self, device: object = "cpu") -> None:
        self.device = device
        self._seed = 67280421310721  # PyTorch's default seed
        self._draws = 0

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed` from its beginning; return the generator."""
        self._seed, self._draws = int(seed) & (2**63 - 1), 0
        return self

    def seed(self) -> int:
        """Start a stream nobody can predict; return its seed."""
        self.manual_seed(secrets.randbits(62))
        return self._seed

    def initial_seed(self) -> int:
        """The seed the stream started from."""
        return self._seed

    def get_state(self) -> tuple[int, int]:
        """(seed, draws): give it to `set_state` to continue from here."""
        return (self._seed, self._draws)

    def set_state(self, state: tuple[int, int]) -> None:
        """Continue where `get_state` was called."""
        self._seed, self._draws = state

    def key(self) -> npt.NDArray[np.int64]:
        """The key of the next draw."""
        return np.array((self._seed, self._draws), dtype=np.int64)

    def advance(self, draws: int) -> None:
        """Skip `draws` draws."""
        self._draws += draws

    def numpy(self) -> np.random.Generator:
        """A NumPy generator for one draw made on the host (shuffling); it advances the stream."""
        key = (self._seed, self._draws, _HOST_STREAM)
        self.advance(1)
        return np.random.default_rng(list(key))

    def __getstate__(self) -> Any:
        return self.__dict__


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Start the default stream of `seed` from its beginning."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Start the default stream somewhere nobody can predict; return its seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed that the default stream started from."""
    return default_generator.initial_seed()


def get_rng_state() -> tuple[int, int]:
    """The default stream's state."""
    return default_generator.get_state()


def set_rng_state(state: tuple[int, int]) -> None:
    """Continue the default stream from `state`."""
    default_generator.set_state(state)
