import inspect
import pickle
import re
import sys
import textwrap
import warnings

import pytest

from lowgrad import errors
from lowgrad.errors import IRParseError, Location, LowgradError, ShapeError

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, LowgradError) and cls is not LowgradError
]
THIS_LINE = re.compile(r"test_errors\.py:\d+, in ")


def run_as(filename: str, source: str) -> dict[str, object]:
    """The globals of `source`, run as if it were the file `filename`."""
    scope: dict[str, object] = {}
    exec(compile(textwrap.dedent(source), filename, "exec"), scope)
    return scope


def test_message_has_operands_line_and_fix():
    error = ShapeError(
        "matmul: inner sizes differ: left axis 1 is 512, right axis 0 is 256",
        operands=["left   x  float32 (64, 512)", "right  w  float32 (256, 128)"],
        at="train.py:41, in Block.forward",
        fix="transpose the right operand: x @ w.T",
    )

    assert str(error) == textwrap.dedent(
        """\
        matmul: inner sizes differ: left axis 1 is 512, right axis 0 is 256
          left   x  float32 (64, 512)
          right  w  float32 (256, 128)
          at:  train.py:41, in Block.forward
          fix: transpose the right operand: x @ w.T"""
    )


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_is_a_builtin_and_in_the_tree(cls):
    builtin = cls.__mro__[2]

    assert f"{cls.__name__}" in errors.__doc__
    assert f"({builtin.__name__})" in next(
        line for line in errors.__doc__.splitlines() if f" {cls.__name__} " in line
    )
    assert cls.__bases__[0] is LowgradError
    assert builtin.__module__ == "builtins"


@pytest.mark.parametrize("cls", CLASSES)
def test_every_docstring_is_a_lesson(cls):
    assert "Example: " in cls.__doc__
    assert "Fix: " in cls.__doc__


@pytest.mark.parametrize("cls", CLASSES)
def test_pickle_keeps_the_message(cls):
    error = cls("what", operands=["x f32[2]"], at="a.py:1, in f", fix="do")

    again = pickle.loads(pickle.dumps(error))

    assert type(again) is cls
    assert str(again) == str(error)


def test_at_is_the_line_that_made_the_error():
    assert THIS_LINE.search(str(LowgradError("what")))


def test_empty_at_leaves_the_line_out():
    assert str(LowgradError("what", at="")) == "what"


def test_frames_of_lowgrad_are_passed_over():
    inner = run_as(
        errors._PACKAGE + "planted.py",
        """
        from lowgrad.errors import user_frame
        def find(f=user_frame): return f()
        """,
    )

    file, line, function = inner["find"]()

    assert file == __file__
    assert line == sys._getframe().f_lineno - 3
    assert function == "test_frames_of_lowgrad_are_passed_over"


def test_frames_of_the_standard_library_are_passed_over():
    found = run_as(
        textwrap.__file__, "from lowgrad.errors import user_frame\ndef find(): return user_frame()"
    )

    assert found["find"]()[0] == __file__


def test_programs_shipped_in_the_package_are_user_code():
    shipped = run_as(
        errors._PACKAGE + "demo/digits.py",
        "from lowgrad.errors import user_frame\ndef find(): return user_frame()",
    )

    assert shipped["find"]()[0].endswith("digits.py")


class Model:
    def forward(self):
        return errors.user_frame()


def test_a_method_is_named_with_its_class():
    class Local(Model):
        pass

    assert Local().forward()[2] == "Model.forward"


def test_user_location_is_relative_below_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "from lowgrad.errors import user_location\ndef f(): return user_location()"

    below = run_as(str(tmp_path / "sub" / "train.py"), source)["f"]()
    beside = run_as("/elsewhere/project/train.py", source)["f"]()

    assert below == Location("sub/train.py", 2, "f")
    assert beside == Location("project/train.py", 2, "f")
    assert str(beside) == "project/train.py:2, in f"


def test_long_messages_stay_within_twelve_lines_of_a_hundred_columns():
    error = ShapeError(
        "cat: " + "sizes differ " * 200,
        operands=["x" * 300] + [f"t{i}  f32[{i}, 3]" for i in range(50)],
        fix="make them equal " * 200,
    )

    lines = f"ShapeError: {error}".splitlines()

    assert len(lines) <= 12
    assert max(map(len, lines)) <= 100
    assert re.search(r"\.\.\. and \d+ more", str(error))
    assert error.message.endswith("differ ")


def test_parse_error_points_at_the_word():
    error = IRParseError(
        'unknown op "mul2"', line=14, column=6, source="%5 = mul2 %3", width=4, file="a.ir", at=""
    )

    assert str(error) == textwrap.dedent(
        """\
        a.ir:14:6: unknown op "mul2"
            %5 = mul2 %3
                 ^^^^"""
    )


def test_warnings_are_raised_with_their_fix():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(errors.CompileWarning, match="fix: pass a tensor"):
            warnings.warn(errors.CompileWarning("slow", fix="pass a tensor"), stacklevel=1)
