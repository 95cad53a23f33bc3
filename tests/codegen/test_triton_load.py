"""Triton source becomes a module of a private, verified file."""

import sys

import pytest

from lowgrad import config
from lowgrad.codegen.triton.load import load, source_path
from lowgrad.errors import ArgumentError, MissingDependencyError

SOURCE = """\
import triton
import triton.language as tl


@triton.jit
def {name}(x_ptr):
    tl.store(x_ptr, {value})
"""


@pytest.fixture(autouse=True)
def _private_cache(tmp_path):
    root = tmp_path / "cache"
    root.mkdir(mode=0o700)
    with config.changed(cache_root=root):
        yield


@pytest.mark.triton
def test_the_same_text_is_loaded_once():
    source = SOURCE.format(name="once", value=1)

    first, second = load(source, "once"), load(source, "once")

    assert first is second
    assert first.arg_names == ["x_ptr"]


@pytest.mark.triton
def test_the_file_is_named_by_content_and_leaves_nothing_beside_it():
    source = SOURCE.format(name="named", value=2)

    load(source, "named")

    path = source_path(source)
    assert path.read_text() == source
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.stem.startswith("lg_")
    assert len(path.stem) == len("lg_") + 16


@pytest.mark.triton
def test_a_file_with_other_content_is_not_run_but_replaced():
    source = SOURCE.format(name="tampered", value=3)
    source_path(source).write_text("raise SystemExit('planted')")

    kernel = load(source, "tampered")

    assert kernel.arg_names == ["x_ptr"]
    assert source_path(source).read_text() == source


@pytest.mark.triton
def test_a_missing_kernel_is_named():
    with pytest.raises(ArgumentError, match=r"no @triton\.jit function called 'other'"):
        load(SOURCE.format(name="present", value=4), "other")


def test_without_triton_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)

    with pytest.raises(MissingDependencyError, match='device "cpu" works without it') as caught:
        load(SOURCE.format(name="absent", value=5), "absent")

    assert "pip install triton" in str(caught.value)
