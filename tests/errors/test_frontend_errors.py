"""Whole messages of mistakes in tensor code: what is wrong, in numbers; the operands; a fix."""

import re
import textwrap

import pytest

import lowgrad as torch

SHAPES = "x, w = torch.ones(2, 3), torch.ones(4, 3)\n"

# Code (its last line is at fault), the error's class, its text without the line "at: ...".
MISTAKES = [
    ("x @ w", "ShapeError", """\
        matmul: inner sizes differ: left axis 1 is 3, right axis 0 is 4
          left   float32 (2, 3)
          right  float32 (4, 3)
          fix: transpose the right operand: x @ y.mT"""),
    ("x + w", "ShapeError", """\
        add: cannot broadcast: axis -2 is 2 on the left, 4 on the right (neither is 1)
          left   (2, 3)
          right  (4, 3)"""),
    ("x.reshape(5, -1)", "ShapeError", """\
        reshape: 6 elements do not fit (5, -1): 6 is not a multiple of 5
          input (2, 3)"""),
    ("x.view(4)", "ShapeError", """\
        reshape: 6 elements do not fit (4,): they hold 4
          input (2, 3)"""),
    ("x.half() @ w.T", "DTypeError", """\
        matmul: float16 @ float32; matmul does not mix dtypes
          left   float16 (2, 3)
          right  float32 (3, 4)
          fix: x.to(lowgrad.float32) @ y"""),
    ("x @ w.T.long()", "DTypeError", """\
        matmul: float32 @ int64; matmul does not mix dtypes
          left   float32 (2, 3)
          right  int64 (3, 4)
          fix: x @ y.to(lowgrad.float32)"""),
    ("x.expand(8, 2, 3).add_(1)", "AliasError", """\
        add_: cannot write in place: this tensor repeats memory (expanded to (8, 2, 3))
          fix: call .clone() first"""),
    ("x.requires_grad_().add_(1)", "AutogradError", """\
        add_: a leaf tensor that requires a gradient cannot be written in place
          fix: write under `with lowgrad.no_grad():`, or to x.data"""),
    ("x.long().add_(1.5)", "DTypeError", """\
        add_: the result is lowgrad.float32, which lowgrad.int64 cannot hold
          fix: x = x.add(...) makes a new tensor"""),
    ("(x.requires_grad_() * 2).backward()", "AutogradError", """\
        backward: the tensor has 6 elements; the gradient can be left out only for one
          tensor  f32[2,3]
          fix: reduce it, loss.mean().backward(), or pass gradient="""),
    ("x.sum().backward()", "AutogradError", """\
        backward: the tensor requires no gradient and was not computed from one that does
          tensor  f32[]
          fix: set requires_grad=True on the leaves, and compute outside of no_grad"""),
    ("bool(x)", "ShapeError", """\
        bool: the truth value of 6 elements is ambiguous
          fix: x.any() or x.all()"""),
    ("x.item()", "ShapeError", """\
        item: needs a tensor of one element, this one has 6
          tensor  f32[2,3]
          fix: reduce it first, x.sum().item(), or use x.tolist()"""),
    ("x[0, 3]", "IndexOutOfRange", "x[...]: index 3 is out of range for axis 1 of size 3"),
    ("x[[0, 5]]", "IndexOutOfRange", "x[...]: index 5 is out of range for axis 0 of size 2"),
    ("x[::-1]", "IndexOutOfRange", """\
        x[...]: the step of a slice must be positive, got -1
          fix: x.flip(dim)"""),
    ("x.sum(2)", "IndexOutOfRange", "sum: dim 2 is out of range for 2 axes (from -2 to 1)"),
    ("x.long().mean()", "DTypeError", """\
        mean: needs a floating-point tensor, got lowgrad.int64
          fix: x.float()"""),
    ("torch.tensor(300, dtype=torch.uint8)", "DTypeError",
     "tensor: 300 does not fit lowgrad.uint8 (0 to 255)"),
    ("torch.tensor([[1, 2], [3]])", "ShapeError", "tensor: the rows differ in length"),
    ("x.requires_grad_().numpy()", "AutogradError", """\
        numpy: this tensor requires a gradient, which NumPy would lose
          fix: x.detach().numpy()"""),
]  # fmt: skip


@pytest.mark.parametrize(("code", "name", "text"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_message(code, name, text):
    with pytest.raises(getattr(torch, name)) as caught:
        exec(compile(SHAPES + code, "train.py", "exec"), {"torch": torch})

    lines = str(caught.value).splitlines()
    at = [line for line in lines if line.startswith("  at:")]
    assert len(at) == 1
    assert re.search(r"train\.py:2, in <module>$", at[0])
    assert "\n".join(line for line in lines if line not in at) == textwrap.dedent(text)
