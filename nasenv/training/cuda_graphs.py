"""A function that is called many times is captured as a CUDA graph on a GPU, and replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

_WARM_UP = 3  # calls on a side stream, in which libraries allocate what they keep and choose algorithms
_WORTH_CAPTURING = 16  # calls, from which on the capture costs less than it saves; not yet measured
_log = logging.getLogger("nasenv")


class GraphedFunction:
    """Calls a function without arguments that works in place on a device; on a GPU it replays a CUDA graph.

    On a GPU the first calls are warm-up, real calls on a side stream; then the function is captured as a CUDA graph,
    and a call replays it (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Where it cannot be
    captured, it is called as it is, ``eager`` says why, and the reason is logged.

    Args:
        act: the function.
        calls: how often it will be called; few are not worth a capture.
        device: device of its tensors.
    """

    def __init__(self, act: Callable[[], None], calls: int, device: torch.device) -> None:
        self._act, self._device = act, device
        self._warm_up = _WARM_UP
        self._graph: torch.cuda.CUDAGraph | None = None
        self.eager: str | None = None
        if device.type != "cuda":
            self.eager = "no GPU"
        elif calls < _WORTH_CAPTURING:
            self.eager = f"fewer than {_WORTH_CAPTURING} steps"

    def __call__(self) -> None:
        """Call the function, or replay its graph."""
        if self._graph is not None:
            self._graph.replay()
        elif self.eager is not None:
            self._act()
        elif self._warm_up:
            self._warm_up -= 1
            self._on_a_side_stream()
        else:
            self._capture()
            self()

    def close(self) -> None:
        """Destroy the graph; the next network's graph reuses its memory."""
        if self._graph is not None:
            torch.cuda.synchronize(self._device)  # a graph that is replayed is not to be destroyed
            self._graph.reset()
            self._graph = None

    def _on_a_side_stream(self) -> None:
        stream, main = _side_stream(self._device), torch.cuda.current_stream(self._device)
        stream.wait_stream(main)
        with torch.cuda.stream(stream):
            self._act()
        main.wait_stream(stream)

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph,
                pool=_pool(self._device).id,  # type: ignore[arg-type]
                stream=_side_stream(self._device),  # on another, libraries would make their handles while it captures
                capture_error_mode="thread_local",
            ):
                self._act()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # the device has done nothing of it: the call is still to be made
            self.eager = " ".join(str(error).split())[:200]
            _log.warning("a training is not captured as a CUDA graph, and slower: %s", self.eager)
        else:
            self._graph = graph


@contextmanager
def graphed(act: Callable[[], None], calls: int, device: torch.device) -> Iterator[GraphedFunction]:
    """Yield a `GraphedFunction`, and close it at the end."""
    made = GraphedFunction(act, calls, device)
    try:
        yield made
    finally:
        made.close()


@cache
def _pool(device: torch.device) -> torch.cuda.MemPool:
    """Return the memory pool that all graphs of this process share, since one is used after the other."""
    return torch.cuda.MemPool()


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
