"""The CUDA driver's calls, each checked: a status that is no success becomes a typed error.

`cuda.bindings` finds the driver library when a function is first called, so that importing this
file needs neither the package nor a GPU.
"""

from __future__ import annotations

import functools
from typing import Any

from lowgrad.errors import (
    DeviceError,
    DeviceFault,
    LaunchError,
    LowgradError,
    MissingDependencyError,
    OutOfMemory,
)

# Statuses by what they mean for the program; names of CUresult without CUDA_ERROR_.
FAULTS = frozenset(
    (
        "ILLEGAL_ADDRESS",
        "MISALIGNED_ADDRESS",
        "ILLEGAL_INSTRUCTION",
        "INVALID_ADDRESS_SPACE",
        "INVALID_PC",
        "HARDWARE_STACK_ERROR",
        "LAUNCH_FAILED",
        "LAUNCH_TIMEOUT",
        "ASSERT",
        "ECC_UNCORRECTABLE",
        "CONTEXT_IS_DESTROYED",
    )
)
TOO_OLD = frozenset(("NO_BINARY_FOR_GPU", "INVALID_IMAGE", "UNSUPPORTED_PTX_VERSION"))
NOT_THERE = frozenset(("NO_DEVICE", "INVALID_DEVICE", "STUB_LIBRARY", "SYSTEM_NOT_READY"))
MISMATCH = frozenset(("SYSTEM_DRIVER_MISMATCH", "COMPAT_NOT_SUPPORTED_ON_DEVICE"))


@functools.cache
def bindings() -> Any:
    """The module `cuda.bindings.driver`. Raises MissingDependencyError if it is not installed."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise MissingDependencyError(
            f"device cuda needs the package cuda-bindings, which cannot be imported ({error})",
            fix='pip install "lowgrad[gpu]"',
        ) from error
    return driver


def call(name: str, *args: Any) -> Any:
    """The result of the driver's function `name`, or a tuple of its results.

    Raises DeviceError without a driver, and what `error_of` says for a status that is no success.
    """
    try:
        status, *results = getattr(bindings(), name)(*args)
    except LowgradError:
        raise
    except RuntimeError as error:  # cuda.bindings: no libcuda, or one without this function
        raise no_driver(error) from error
    if status:
        raise error_of(name, status)
    return results[0] if len(results) == 1 else tuple(results)


def no_driver(error: Exception) -> DeviceError:
    """The error for a machine on which the driver library cannot be used."""
    lines = str(error).strip().splitlines()
    return DeviceError(
        f"cuda: NVIDIA's driver cannot be used ({lines[0] if lines else type(error).__name__})",
        fix='use device "cpu"; c.cross_compile("cuda:90") compiles the kernels without a GPU',
    )


def error_of(name: str, status: Any) -> LowgradError:
    """The typed error for `status`, a CUresult, returned by the driver's function `name`."""
    what = status.name.removeprefix("CUDA_ERROR_")
    message = f"{name}: {_described(status)} (CUDA error {int(status)}, {what})"
    if what == "OUT_OF_MEMORY":
        return OutOfMemory(message)
    if what in FAULTS:
        return DeviceFault(
            f"a kernel that ran before failed, and the GPU's state is lost: {message}",
            fix="LOWGRAD_SYNC=1 waits for each kernel and names the one that fails",
        )
    if what in TOO_OLD:
        return DeviceError(f"this GPU or its driver is too old for the kernel: {message}")
    if what in MISMATCH:
        return DeviceError(f"the installed NVIDIA driver does not fit its kernel module: {message}")
    if what in NOT_THERE:
        return DeviceError(
            f"no such GPU: {message}",
            fix='use device "cpu"; c.cross_compile("cuda:90") compiles the kernels without a GPU',
        )
    if what == "LAUNCH_OUT_OF_RESOURCES":
        return LaunchError(f"a block of the kernel asks for more than the GPU has: {message}")
    return DeviceError(message)


def _described(status: Any) -> str:
    error, text = bindings().cuGetErrorString(status)
    if error or text is None:
        return "unknown error"
    return text.decode() if isinstance(text, bytes) else str(text)


def attribute(device: Any, name: str) -> int:
    """CU_DEVICE_ATTRIBUTE_<name> of a driver's device."""
    kinds = bindings().CUdevice_attribute
    value: int = call("cuDeviceGetAttribute", getattr(kinds, f"CU_DEVICE_ATTRIBUTE_{name}"), device)
    return value
