"""The functions of `lowgrad.*`, with PyTorch's names; most are Tensor methods as well."""

import lowgrad.functional.inplace
import lowgrad.functional.moves  # noqa: F401  (attaches methods)
from lowgrad.functional.create import *  # noqa: F403
from lowgrad.functional.facts import *  # noqa: F403
from lowgrad.functional.indexing import *  # noqa: F403
from lowgrad.functional.linalg import *  # noqa: F403
from lowgrad.functional.pointwise import *  # noqa: F403
from lowgrad.functional.reduction import *  # noqa: F403
from lowgrad.functional.sampling import *  # noqa: F403
from lowgrad.functional.shape import *  # noqa: F403
from lowgrad.functional.sorting import *  # noqa: F403
