"""lowgrad: a graph compiler for training. `import lowgrad as torch` runs PyTorch programs."""

import sys as _sys

from lowgrad import amp as amp
from lowgrad import autocasting as _autocasting
from lowgrad import autograd as autograd
from lowgrad import backends as backends
from lowgrad import cuda as cuda
from lowgrad import functional as _functional
from lowgrad import nn as nn
from lowgrad import optim as optim
from lowgrad import profiler as profiler
from lowgrad import utils as utils
from lowgrad.amp import autocast as autocast
from lowgrad.amp import get_autocast_dtype as get_autocast_dtype
from lowgrad.amp import is_autocast_enabled as is_autocast_enabled
from lowgrad.autograd import enable_grad as enable_grad
from lowgrad.autograd import inference_mode as inference_mode
from lowgrad.autograd import is_grad_enabled as is_grad_enabled
from lowgrad.autograd import no_grad as no_grad
from lowgrad.autograd import set_grad_enabled as set_grad_enabled
from lowgrad.errors import *  # noqa: F403
from lowgrad.exchange import from_dlpack as from_dlpack
from lowgrad.functional import *  # noqa: F403
from lowgrad.generator import Generator as Generator
from lowgrad.generator import default_generator as default_generator
from lowgrad.generator import get_rng_state as get_rng_state
from lowgrad.generator import initial_seed as initial_seed
from lowgrad.generator import manual_seed as manual_seed
from lowgrad.generator import seed as seed
from lowgrad.generator import set_rng_state as set_rng_state
from lowgrad.ir import types as _types
from lowgrad.ir.types import bfloat16 as bfloat16
from lowgrad.ir.types import float16 as float16
from lowgrad.ir.types import float32 as float32
from lowgrad.ir.types import float64 as float64
from lowgrad.ir.types import int8 as int8
from lowgrad.ir.types import int32 as int32
from lowgrad.ir.types import int64 as int64
from lowgrad.ir.types import uint8 as uint8
from lowgrad.matmul_precision import (
    get_float32_matmul_precision as get_float32_matmul_precision,
)
from lowgrad.matmul_precision import (
    set_float32_matmul_precision as set_float32_matmul_precision,
)
from lowgrad.promotion import get_default_dtype as get_default_dtype
from lowgrad.promotion import promote_types as promote_types
from lowgrad.promotion import set_default_dtype as set_default_dtype
from lowgrad.tensor import Size as Size
from lowgrad.tensor import Tensor as Tensor
from lowgrad.tensor import device as device
from lowgrad.transforms import TensorSpec as TensorSpec
from lowgrad.transforms import compile as compile
from lowgrad.version import __version__ as __version__

# PyTorch's names, which shadow builtins only inside this namespace.
dtype = _types.DType
bool = _types.bool_
float = float32
double = float64
half = float16
long = int64
int = int32


# Last: the functions that are public now choose their precision under `autocast`.
_functions = _autocasting.functions_of(_functional)
_autocasting.install(_sys.modules[__name__], _functions)
_autocasting.install(Tensor, _functions)
_autocasting.install(nn.functional, _autocasting.functions_of(nn.functional))
