"""A module run as a program on the mock GPU: `python tests/mock_child.py -m module arguments`."""

import runpy
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import mock_gpu  # noqa: E402

if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch, mock_gpu.mocked(patch):
        module, sys.argv = sys.argv[2], sys.argv[2:]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
