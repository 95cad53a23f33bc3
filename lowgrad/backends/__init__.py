"""`lowgrad.backends`: the switches of `torch.backends` that programs set.

`cuda.matmul.allow_tf32` is `set_float32_matmul_precision`'s other name. cuDNN is not used here, so
what `cudnn` has is kept and without effect: kernels are deterministic, and none is searched for.
"""

from __future__ import annotations

from lowgrad.matmul_precision import get_float32_matmul_precision, set_float32_matmul_precision


class _Matmul:
    @property
    def allow_tf32(self) -> bool:
        """Whether float32 products on a GPU may round their operands to TF32."""
        return get_float32_matmul_precision() != "highest"

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        set_float32_matmul_precision("high" if allowed else "highest")


class _Cuda:
    matmul = _Matmul()


class _Cudnn:
    enabled = True
    benchmark = False
    deterministic = True
    allow_tf32 = False


cuda = _Cuda()
cudnn = _Cudnn()

__all__ = ["cuda", "cudnn"]
