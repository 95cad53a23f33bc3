"""The mock GPU as a fixture. Each test starts with a clean log and gives all memory back."""

import gc

import pytest

pytest.importorskip("cuda.bindings")
pytest.importorskip("triton")

import mock_gpu


@pytest.fixture
def mock(monkeypatch):
    if mock_gpu.compiler() is None:
        pytest.skip("no C compiler for the mock driver")
    with mock_gpu.mocked(monkeypatch) as made:
        yield made
        assert not made.errors, made.errors[0]
    gc.collect()
