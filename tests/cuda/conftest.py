"""The mock GPU as a fixture, and `gpu`: the real one where LOWGRAD_TEST_GPU=1, else the mock.

Tests of what is computed take `gpu`, and so run on a real GPU too; tests of which calls the driver
gets take `mock`. Each starts with a clean log.
"""

import gc
import os

import pytest

pytest.importorskip("cuda.bindings")
pytest.importorskip("triton")

import mock_gpu

IS_REAL = os.environ.get("LOWGRAD_TEST_GPU") == "1"


@pytest.fixture
def mock(monkeypatch):
    if IS_REAL:
        pytest.skip("about the driver's calls; LOWGRAD_TEST_GPU=1 asks for the real driver")
    if mock_gpu.compiler() is None:
        pytest.skip("no C compiler for the mock driver")
    with mock_gpu.mocked(monkeypatch) as made:
        yield made
        assert not made.errors, made.errors[0]
    gc.collect()


@pytest.fixture
def gpu(request):
    """ "cuda", real or mocked."""
    if not IS_REAL:
        request.getfixturevalue("mock")
    return "cuda"
