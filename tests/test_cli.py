"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lowgrad.cli import main


def test_env_lists_what_is_installed(capsys):
    assert main(["env"]) == 0

    text = capsys.readouterr().out
    for name in ("lowgrad", "numpy", "triton", "devices"):
        assert name in text


def test_env_as_json(capsys):
    assert main(["env", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["lowgrad"] == "0.1.0"


def test_env_fails_if_a_required_package_is_missing(capsys, monkeypatch):
    monkeypatch.setattr("lowgrad.cli.env._version", lambda name: "missing")

    assert main(["env"]) == 1


@pytest.mark.parametrize("arguments", [[], ["fly"], ["demo", "--epochs", "0"]])
def test_a_wrong_command_line_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)

    assert error.value.code == 2
    assert "usage: lowgrad" in capsys.readouterr().err


def test_an_error_of_a_command_is_one_message(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)

    assert main(["demo", "--epochs", "1"]) == 2
    assert "lowgrad: demo: scikit-learn is not installed" in capsys.readouterr().err


def test_importing_lowgrad_leaves_the_heavy_packages_alone():
    code = (
        "import sys, lowgrad; "
        "print([m for m in ('triton', 'networkx', 'scipy', 'matplotlib', 'torch') "
        "if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
