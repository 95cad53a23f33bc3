"""One CUDA graph for a whole step: built once, node by node in order, and launched as one.

A buffer that moved between two calls changes the parameters of the nodes that use it, and nothing
else. The graph is built by the driver's calls that add nodes, not by capturing a stream: so no
other thread's work can get into it, and each node's handle is known.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from lowgrad.runtime.cuda.driver import bindings, call
from lowgrad.runtime.cuda.gpu import Gpu
from lowgrad.runtime.cuda.launch import Launch
from lowgrad.runtime.cuda.streams import Stream


@dataclass
class Copy:
    """`rows` rows of `width` bytes from `source` to `target`, at a pitch each."""

    target: int
    source: int
    width: int
    rows: int = 1
    target_pitch: int = 0
    source_pitch: int = 0

    def __call__(self, stream: Stream) -> None:
        """Queue it."""
        if self.rows == 1:
            call("cuMemcpyDtoDAsync", self.target, self.source, self.width, stream.handle)
            return
        params = bindings().CUDA_MEMCPY2D()
        _describe(params, self)
        params.Height = self.rows
        call("cuMemcpy2DAsync", params, stream.handle)

    @property
    def node_params(self) -> Any:
        """The same copy as the driver's parameters of a graph node."""
        params = bindings().CUDA_MEMCPY3D()
        _describe(params, self)
        params.Height, params.Depth = self.rows, 1
        params.srcHeight = params.dstHeight = self.rows
        return params


def _describe(params: Any, copy: Copy) -> None:
    device = bindings().CUmemorytype.CU_MEMORYTYPE_DEVICE
    params.srcMemoryType = params.dstMemoryType = device
    params.srcDevice, params.dstDevice = copy.source, copy.target
    params.srcPitch = copy.source_pitch or copy.width
    params.dstPitch = copy.target_pitch or copy.width
    params.WidthInBytes = copy.width


class CudaGraph:
    """Launches and copies as one graph, each after the one before it."""

    def __init__(self, device: Gpu, actions: list[Launch | Copy]) -> None:
        self.device, self.actions = device, actions
        device.use()
        self._graph = call("cuGraphCreate", 0)
        self._nodes: list[Any] = []
        for action in actions:
            after = self._nodes[-1:]
            params = action.node_params
            if isinstance(action, Launch):
                node = call("cuGraphAddKernelNode", self._graph, after, len(after), params)
            else:
                node = call(
                    "cuGraphAddMemcpyNode", self._graph, after, len(after), params, device.context
                )
            self._nodes.append(node)
        self._exec = call("cuGraphInstantiate", self._graph, 0)

    def refresh(self, at: int) -> None:
        """Let node `at` take over the present arguments of its action."""
        action, node = self.actions[at], self._nodes[at]
        params = action.node_params
        if isinstance(action, Launch):
            call("cuGraphExecKernelNodeSetParams", self._exec, node, params)
        else:
            context = self.device.context
            call("cuGraphExecMemcpyNodeSetParams", self._exec, node, params, context)

    def upload(self, stream: Stream) -> None:
        """Bring it to the GPU ahead of its first launch."""
        call("cuGraphUpload", self._exec, stream.handle)

    def launch(self, stream: Stream) -> None:
        """Queue all of it."""
        (status,) = bindings().cuGraphLaunch(self._exec, stream.handle)
        if status:
            from lowgrad.runtime.cuda.driver import error_of

            raise error_of("cuGraphLaunch", status)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at exit the driver may be gone already
            self.device.use()
            if getattr(self, "_exec", None) is not None:
                bindings().cuGraphExecDestroy(self._exec)
            if getattr(self, "_graph", None) is not None:
                bindings().cuGraphDestroy(self._graph)
