import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from lowgrad import config
from lowgrad.errors import ArgumentError, UnsafeCacheWarning


def test_defaults():
    got = config.read({})

    assert got.dump_dir is None
    assert got.threads is None
    assert (got.traceback, got.log) == ("short", ())
    assert got.cache_root == Path.home() / ".cache" / "lowgrad"


def test_variables_are_read(tmp_path):
    got = config.read(
        {
            "LOWGRAD_DUMP": "dumps",
            "LOWGRAD_CACHE": str(tmp_path),
            "LOWGRAD_THREADS": "3",
            "LOWGRAD_TRACEBACK": "FULL",
            "LOWGRAD_LOG": "passes, Cache",
        }
    )

    assert got == config.Settings(Path("dumps"), tmp_path, 3, "full", ("passes", "cache"))


@pytest.mark.parametrize(
    ("xdg", "root"), [("/xdg", Path("/xdg/lowgrad")), ("rel", Path.home() / ".cache" / "lowgrad")]
)
def test_xdg_cache_home_counts_if_absolute(xdg, root):
    assert config.read({"XDG_CACHE_HOME": xdg}).cache_root == root


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "1025", "²"])
def test_bad_thread_count_names_the_variable(text):
    with pytest.raises(ArgumentError, match="LOWGRAD_THREADS must be a whole number from 1 to"):
        config.read({"LOWGRAD_THREADS": text})


@pytest.mark.parametrize("name", ["LOWGRAD_TRACEBACK", "LOWGRAD_SYNC"])
def test_bad_choice_lists_what_is_allowed(name):
    with pytest.raises(ArgumentError, match=f'{name} must be one of .*, not "loud"'):
        config.read({name: "loud"})


def test_settings_are_frozen_and_read_once(monkeypatch):
    before = config.settings()
    monkeypatch.setenv("LOWGRAD_LOG", "all")

    assert config.settings() is before
    with pytest.raises(AttributeError):
        before.log = "debug"


def test_changed_lasts_for_its_block(tmp_path):
    before = config.settings()

    with config.changed(dump_dir=tmp_path) as inside:
        assert config.settings() is inside
        assert inside.dump_dir == tmp_path

    assert config.settings() is before


def test_cache_dir_is_made_private(tmp_path):
    with config.changed(cache_root=tmp_path / "a" / "cache"):
        path = config.cache_dir()

    assert path == tmp_path / "a" / "cache"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_cache_others_can_write_is_not_used(tmp_path, mode):
    root = tmp_path / f"open-{mode:o}"
    root.mkdir()
    root.chmod(mode)

    with config.changed(cache_root=root), pytest.warns(UnsafeCacheWarning, match="by others"):
        path = config.cache_dir()

    assert path != root
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with config.changed(cache_root=root), warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns once, and stays with its choice
        assert config.cache_dir() == path


def test_cache_of_another_user_is_not_used(tmp_path, monkeypatch):
    root = tmp_path / "theirs"
    root.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: root.stat().st_uid + 1)

    with config.changed(cache_root=root), pytest.warns(UnsafeCacheWarning, match="belongs to user"):
        assert config.cache_dir() != root


def test_cache_that_cannot_be_made_is_replaced(tmp_path):
    (tmp_path / "file").write_text("")

    with (
        config.changed(cache_root=tmp_path / "file" / "cache"),
        pytest.warns(UnsafeCacheWarning, match="cannot be made"),
    ):
        assert config.cache_dir().is_dir()


def test_temporary_cache_is_removed_at_exit_but_not_by_a_forked_child(tmp_path):
    program = """
import os, sys, warnings
warnings.simplefilter("ignore")
from lowgrad import config
path = config.cache_dir()
if (child := os.fork()) == 0:
    sys.exit()
os.waitpid(child, 0)
print(path, path.is_dir())
"""
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(0o777)

    out = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "LOWGRAD_CACHE": str(root)},
        cwd=Path(config.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )

    path, was_there = out.stdout.split()
    assert was_there == "True"
    assert not Path(path).exists()


def test_log_takes_topics_that_there_are():
    assert config.read({"LOWGRAD_LOG": "all"}).log == config.LOG_TOPICS
    with pytest.raises(ArgumentError, match='there is no topic "speed"; there are record, passes'):
        config.read({"LOWGRAD_LOG": "passes,speed"})
