"""The functions of `lowgrad.*`, with PyTorch's names; most are Tensor methods as well."""

from lowgrad.functional.create import *  # noqa: F403
from lowgrad.functional.indexing import *  # noqa: F403
from lowgrad.functional.inplace import *  # noqa: F403
from lowgrad.functional.linalg import *  # noqa: F403
from lowgrad.functional.pointwise import *  # noqa: F403
from lowgrad.functional.reduction import *  # noqa: F403
from lowgrad.functional.sampling import *  # noqa: F403
from lowgrad.functional.shape import *  # noqa: F403
from lowgrad.functional.sorting import *  # noqa: F403
