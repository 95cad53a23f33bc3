"""Functions of rows, as graphs: what norms and losses are made of, and their gradients."""

from __future__ import annotations

from codegen.helpers import expanded, region, tensor

from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import DType, float32, int64

EPS = 1e-5


def total(x):
    return x.call("sum", dims=(1,))


def along(x, like):
    return expanded(x, like.shape)


def softmax(x):
    exp = (x - along(x.call("max", dims=(1,)), x)).call("exp")
    return exp / along(total(exp), x)


def softmax_backward(x, g):
    """From x itself, as where the softmax is computed again."""
    y = softmax(x)
    return y * (g - along(total(g * y), x))


def log_sum(x):
    """log(sum(exp(x))), whose shift is finite, so that rows of -inf have -inf."""
    most = x.call("max", dims=(1,))
    is_finite = most.call("abs").call("lt", x.builder.full(most.type, float("inf")))
    shift = is_finite.call("where", most, x.builder.full(most.type, 0.0))
    return total((x - along(shift, x)).call("exp")).call("log") + shift


def log_softmax(x):
    return x - along(log_sum(x), x)


def log_softmax_backward(x, g):
    return g - log_softmax(x).call("exp") * along(total(g), x)


def divergence(x, g):
    """sum(g log_softmax(x)): a cross entropy with probabilities."""
    return total(g * log_softmax(x))


def moments(x):
    """x less its mean, and 1 / its standard deviation."""
    count = x.shape[1]
    centred = x - along(total(x) / count, x)
    return centred, (total(centred * centred) / count + EPS).call("rsqrt")


def layer_norm(x, weight):
    centred, scale = moments(x)
    return centred * along(scale, x) * along(weight, x)


def layer_norm_backward(x, weight, g):
    """As autodiff writes it: the sum of what follows from another sum."""
    count = x.shape[1]
    centred, scale = moments(x)
    scaled = g * along(weight, x)
    slope = total(scaled * centred) * -0.5 * scale * scale * scale / count
    of_square = along(slope, x) * centred
    of_centred = scaled * along(scale, x) + of_square + of_square
    return of_centred + along(total(-of_centred) / count, x)


def rms_norm(x, weight):
    scale = (total(x * x) / x.shape[1] + EPS).call("rsqrt")
    return x * along(scale, x) * along(weight, x)


def rms_norm_backward(x, weight, g):
    count = x.shape[1]
    scale = (total(x * x) / count + EPS).call("rsqrt")
    scaled = g * along(weight, x)
    slope = total(scaled * x) * -1.0 * scale * scale * scale / count
    return scaled * along(scale, x) + along(slope, x) * x


def variance(x):
    centred = x - along(total(x) / x.shape[1], x)
    return total(centred * centred) / x.shape[1]


def cross_entropy(x, target):
    """Each row's loss, and the gradient of their mean."""
    index = target.call("reshape", shape=(x.shape[0], 1))
    log_p = log_softmax(x)
    places = x.builder.apply(REGISTRY["iota"], shape=x.shape, dtype=int64, dim=1)
    hit = places.equals(along(index, x)).call("cast", dtype=x.dtype)
    return -log_p.call("gather", index, dim=1), (log_p.call("exp") - hit) / x.shape[0]


# For each: what it takes besides x, and how often x is read for its results, written ones included.
FUNCTIONS = {
    "softmax": (softmax, (), 2),
    "softmax backward": (softmax_backward, ("g",), 2),
    "log_sum": (log_sum, (), 1),
    "log_softmax": (log_softmax, (), 2),
    "log_softmax backward": (log_softmax_backward, ("g",), 2),
    "divergence": (divergence, ("g",), 1),
    "layer_norm": (layer_norm, ("weight",), 2),
    "layer_norm backward": (layer_norm_backward, ("weight", "g"), 2),
    "rms_norm": (rms_norm, ("weight",), 2),
    "rms_norm backward": (rms_norm_backward, ("weight", "g"), 2),
    "variance": (variance, (), 1),
    "cross_entropy": (cross_entropy, ("target",), 2),
}


def rows_of(name: str, shape: tuple[int, int], dtype: DType = float32):
    """The function called `name` as a node, of x of `shape`."""
    f, others, _ = FUNCTIONS[name]
    types = {
        "g": tensor(*shape, dtype=dtype),
        "weight": tensor(shape[1], dtype=dtype),
        "target": tensor(shape[0], dtype=int64),
    }
    return region("rows", f, x=tensor(*shape, dtype=dtype), **{n: types[n] for n in others})
