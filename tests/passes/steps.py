"""Training steps built by hand, with no front end: what the passes' tests run on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import lowgrad.ops  # noqa: F401 - fills the registry
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Graph
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import DType, Shape, TensorType, float32, int64
from lowgrad.passes.autodiff import gradients


def linear(x: Tracer, weight: Tracer, bias: Tracer | None = None) -> Tracer:
    """x[..., K] @ weight[N, K] + bias[N]."""
    *rows, k = x.shape
    flat = x if len(rows) == 1 else x.call("reshape", shape=(math.prod(rows), k))
    y = flat.call("matmul", weight.call("permute", dims=(1, 0)))
    y = y if len(rows) == 1 else y.call("reshape", shape=(*rows, weight.shape[0]))
    return y if bias is None else y + spread(bias, y.shape)


def spread(x: Tracer, shape: Shape) -> Tracer:
    """x, with dims of size 1 in front, expanded to `shape`."""
    lifted = x.call("reshape", shape=(1,) * (len(shape) - len(x.shape)) + x.shape)
    return lifted.call("expand", shape=shape)


def mean(x: Tracer, dims: tuple[int, ...]) -> Tracer:
    """The mean along dims, which stay."""
    return x.call("sum", dims=dims) / float(math.prod(x.shape[d] for d in dims))


def relu(x: Tracer) -> Tracer:
    return x.call("maximum", 0.0)


def gelu(x: Tracer) -> Tracer:
    return x * 0.5 * ((x * math.sqrt(0.5)).call("erf") + 1.0)


def log_softmax(x: Tracer) -> Tracer:
    dim = (len(x.shape) - 1,)
    top = x.call("max", dims=dim).call("stop_gradient").call("expand", shape=x.shape)
    shifted = x - top
    total = shifted.call("exp").call("sum", dims=dim).call("log")
    return shifted - total.call("expand", shape=x.shape)


def softmax(x: Tracer) -> Tracer:
    dim = (len(x.shape) - 1,)
    top = x.call("max", dims=dim).call("stop_gradient").call("expand", shape=x.shape)
    exp = (x - top).call("exp")
    return exp / exp.call("sum", dims=dim).call("expand", shape=x.shape)


def layer_norm(x: Tracer, weight: Tracer, bias: Tracer) -> Tracer:
    dim = (len(x.shape) - 1,)
    centred = x - mean(x, dim).call("expand", shape=x.shape)
    scale = (mean(centred * centred, dim) + 1e-5).call("rsqrt")
    normal = centred * scale.call("expand", shape=x.shape)
    return normal * spread(weight, x.shape) + spread(bias, x.shape)


def cross_entropy(logits: Tracer, target: Tracer) -> Tracer:
    """The mean over rows; logits[B,N], target i64[B]."""
    (rows,) = target.shape
    index = target.call("reshape", shape=(rows, 1))
    picked = log_softmax(logits).call("gather", index, dim=1)
    return mean(-picked.call("reshape", shape=(rows,)), (0,)).call("reshape", shape=())


def attention(q: Tracer, k: Tracer, v: Tracer) -> Tracer:
    """Causal; [B,H,S,D] each."""
    scores = q.call("matmul", k.call("permute", dims=(0, 1, 3, 2))) * (1 / math.sqrt(q.shape[-1]))
    b = q.builder
    row = b.apply(REGISTRY["iota"], shape=scores.shape, dtype=int64, dim=2)
    column = b.apply(REGISTRY["iota"], shape=scores.shape, dtype=int64, dim=3)
    masked = (column <= row).call("where", scores, b.full(scores.type, -1e9))
    return softmax(masked).call("matmul", v)


@dataclass
class Step:
    """A step under construction: parameters and their optimizer state become aliased outputs."""

    builder: Builder
    parameters: list[Tracer]
    outputs: list[Tracer]
    aliases: dict[int, int]

    def state(self, type_: TensorType, hint: str) -> Tracer:
        return self.builder.input(type_, hint)

    def update(self, old: Tracer, new: Tracer) -> None:
        self.aliases[len(self.outputs)] = self.builder.inputs.index(old.value)
        self.outputs.append(new)

    def gradients(self, loss: Tracer) -> list[Tracer]:
        """Of the parameters."""
        b = self.builder
        seed = b.full(loss.type, 1.0)
        wrt = [p.value for p in self.parameters]
        found = gradients(b, list(b.nodes), [loss.value], [seed], wrt, lambda v: True)
        assert all(g is not None for g in found)
        return [g for g in found if g is not None]

    def graph(self, name: str) -> Graph:
        return self.builder.graph(tuple(t.value for t in self.outputs), self.aliases, name)


def new_step() -> Step:
    return Step(Builder(), [], [], {})


def parameter(step: Step, name: str, *shape: int, dtype: DType = float32) -> Tracer:
    made = step.state(TensorType(shape, dtype), name)
    step.parameters.append(made)
    return made


def sgd(step: Step, grads: Sequence[Tracer], momentum: float = 0.9) -> None:
    """Momentum SGD; the learning rate is an input."""
    lr = step.state(TensorType((), float32), "lr")
    for p, g in zip(step.parameters, grads, strict=True):
        buf = step.state(p.type, f"{p.value.hint}.buf")
        new = buf * momentum + g
        step.update(buf, new)
        rate = lr if p.dtype is lr.dtype else lr.call("cast", dtype=p.dtype)
        step.update(p, p - spread(rate, p.shape) * new)


def adamw(step: Step, grads: Sequence[Tracer], *, clip: float | None = None) -> None:
    """AdamW, optionally after clipping the global norm."""
    lr = step.state(TensorType((), float32), "lr")
    correct = step.state(TensorType((), float32), "correction")
    if clip is not None:
        grads = clipped(grads, clip)
    for p, g in zip(step.parameters, grads, strict=True):
        m = step.state(p.type, f"{p.value.hint}.m")
        v = step.state(p.type, f"{p.value.hint}.v")
        m_new = m * 0.9 + g * 0.1
        v_new = v * 0.999 + g * g * 0.001
        denominator = (v_new / spread(correct, p.shape)).call("sqrt") + 1e-8
        decayed = p * (1.0 - spread(lr, p.shape) * 0.01)
        step.update(m, m_new)
        step.update(v, v_new)
        step.update(p, decayed - spread(lr, p.shape) * (m_new / denominator))


def clipped(grads: Sequence[Tracer], norm: float) -> list[Tracer]:
    total = None
    for g in grads:
        square = (g * g).call("sum", dims=tuple(range(len(g.shape)))).call("reshape", shape=())
        total = square if total is None else total + square
    assert total is not None
    scale = (total.builder.full(total.type, norm) / (total.call("sqrt") + 1e-6)).call(
        "minimum", 1.0
    )
    return [g * spread(scale, g.shape) for g in grads]


def classifier(
    batch: int = 64, sizes: tuple[int, ...] = (784, 128, 64, 10), dtype: DType = float32
) -> Graph:
    """The tutorial's: linear layers with relu, cross entropy, SGD with momentum."""
    step = new_step()
    x = step.state(TensorType((batch, sizes[0]), dtype), "x")
    y = step.state(TensorType((batch,), int64), "y")
    for i, (k, n) in enumerate(pairwise(sizes)):
        weight = parameter(step, f"fc{i + 1}.weight", n, k, dtype=dtype)
        bias = parameter(step, f"fc{i + 1}.bias", n, dtype=dtype)
        x = linear(x, weight, bias)
        x = relu(x) if i < len(sizes) - 2 else x
    loss = cross_entropy(x, y)
    step.outputs.append(loss)
    sgd(step, step.gradients(loss))
    return step.graph("classifier")


@dataclass(frozen=True)
class GptSize:
    batch: int = 4
    length: int = 64
    width: int = 128
    heads: int = 4
    layers: int = 2
    vocab: int = 512


def gpt(size: GptSize = GptSize(), clip: float | None = None) -> Graph:
    """A small GPT: pre-norm blocks, causal attention, GELU, tied to nothing; AdamW."""
    step = new_step()
    B, S, D = size.batch, size.length, size.width
    tokens = step.state(TensorType((B, S), int64), "tokens")
    target = step.state(TensorType((B * S,), int64), "target")
    wte = parameter(step, "wte", size.vocab, D)
    wpe = parameter(step, "wpe", S, D)
    x = wte.call("take", tokens, dim=0) + spread(wpe, (B, S, D))
    for layer in range(size.layers):
        x = _block(step, f"h{layer}", x, size.heads)
    x = layer_norm(x, parameter(step, "ln.w", D), parameter(step, "ln.b", D))
    logits = linear(x, parameter(step, "head", size.vocab, D))
    loss = cross_entropy(logits.call("reshape", shape=(B * S, size.vocab)), target)
    step.outputs.append(loss)
    adamw(step, step.gradients(loss), clip=clip)
    return step.graph("gpt")


def _block(step: Step, name: str, x: Tracer, heads: int) -> Tracer:
    B, S, D = x.shape

    def new(suffix: str, *shape: int) -> Tracer:
        return parameter(step, f"{name}.{suffix}", *shape)

    def split(t: Tracer) -> Tracer:
        return t.call("reshape", shape=(B, S, heads, D // heads)).call("permute", dims=(0, 2, 1, 3))

    h = layer_norm(x, new("ln1.w", D), new("ln1.b", D))
    q, k, v = (split(linear(h, new(f"{n}.w", D, D), new(f"{n}.b", D))) for n in "qkv")
    mixed = attention(q, k, v).call("permute", dims=(0, 2, 1, 3)).call("reshape", shape=(B, S, D))
    x = x + linear(mixed, new("o.w", D, D), new("o.b", D))
    h = layer_norm(x, new("ln2.w", D), new("ln2.b", D))
    h = gelu(linear(h, new("up.w", 4 * D, D), new("up.b", 4 * D)))
    return x + linear(h, new("down.w", D, 4 * D), new("down.b", D))


def value_and_gradients(
    function: Callable[..., Tracer], *types: TensorType, name: str = "graph"
) -> Graph:
    """sum(sin(function(*inputs))) and its gradients with respect to all floating inputs."""
    b = Builder()
    inputs = [b.input(t, f"x{i}") for i, t in enumerate(types)]
    out = function(*inputs)
    loss = out.call("sin")
    wrt = [t.value for t in inputs if t.dtype.is_floating_point]
    seed = b.full(loss.type, 1.0)
    found = gradients(b, list(b.nodes), [loss.value], [seed], wrt, lambda v: True)
    return b.graph((out.value, *(g.value for g in found if g is not None)), name=name)


def arrays_for(graph: Graph, seed: int = 0) -> list[Any]:
    """Inputs for a graph: normal floats, small integers from 0."""
    rng = np.random.default_rng(seed)
    return [_array(v.type, v.hint, rng) for v in graph.inputs]


def _array(type_: TensorType, hint: str, rng: np.random.Generator) -> Any:
    if type_.dtype.is_floating_point:
        data = rng.standard_normal(type_.shape)
        # Variances and step counts are not negative.
        data = np.abs(data) if hint.endswith((".v", "lr", "correction")) else data
        return np.asarray(data).astype(type_.dtype.numpy)
    return rng.integers(0, 2, type_.shape).astype(type_.dtype.numpy)


def kernels(graph: Graph) -> list[Any]:
    """The nodes that become launches: all but reshapes, which are other names for buffers."""
    return [n for n in graph.nodes if n.op.name != "reshape"]


def bytes_moved(graph: Graph) -> int:
    """What all kernels read and write, each value once a kernel."""
    return sum(
        v.type.nbytes for n in kernels(graph) for v in (*dict.fromkeys(n.inputs), *n.outputs)
    )
