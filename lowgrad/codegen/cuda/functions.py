"""Kernels, compiled and loaded on a GPU: each once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.step import distinct, identity, job_of
from lowgrad.codegen.triton.compile import Binary, Job
from lowgrad.codegen.triton.store import compiled, job_key
from lowgrad.runtime.cuda.gpu import Gpu
from lowgrad.runtime.cuda.launch import Function
from lowgrad.runtime.cuda.tensor_map import TensorMap

_loaded: dict[tuple[int, str], Function] = {}


def functions(kernels: Iterable[Kernel], device: Gpu) -> dict[Hashable, Function]:
    """The function of each kernel, by `identity`. What is not known is compiled side by side.

    Raises CompileError naming a kernel that does not compile, LaunchError for one whose blocks
    need more shared memory than this GPU has.
    """
    wanted = distinct(kernels)
    jobs = {identity(k): job_of(k, device.target) for k in wanted}
    keys = {i: (device.index, job_key(job)) for i, job in jobs.items()}
    missing = [(keys[i], job) for i, job in jobs.items() if keys[i] not in _loaded]
    binaries = compiled([job for _, job in missing])
    for (key, job), binary in zip(missing, binaries, strict=True):
        _loaded[key] = _load(device, job, binary)
    return {i: _loaded[key] for i, key in keys.items()}


def maps_of(kernel: Kernel, function: Function) -> list[TensorMap | None]:
    """How each argument of the kernel is described; None for those that are pointers."""
    encodings = iter(function.encodings)
    maps: list[TensorMap | None] = []
    for box in (p.box for p in kernel.params):
        if box is None:
            maps.append(None)
        else:
            block, element, itemsize, swizzle = next(encodings)
            maps.append(TensorMap(box.shape, block, element, itemsize, swizzle))
    return maps


def _load(device: Gpu, job: Job, binary: Binary) -> Function:
    assert binary.cubin is not None, "the target is a CUDA one"
    return Function(
        device,
        binary.cubin,
        job.name,
        num_warps=binary.num_warps,
        shared_bytes=binary.shared_bytes,
        scratch_bytes=binary.scratch_bytes,
        encodings=binary.descriptors,
    )
