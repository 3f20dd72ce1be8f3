"""A function that is called many times is captured as a CUDA graph on a GPU, and replayed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

from nasenv.training.devices import is_out_of_memory

CAPTURE_FAILED = "its capture failed"  # how the reason begins after which the process is not to be trusted
_WARM_UP = 2  # calls on a side stream: libraries allocate what they keep and choose algorithms; the last is watched
_WAITED = "called a synchronizing CUDA operation"  # PyTorch's warning
WORTH_CAPTURING = 16  # calls, from which on the capture costs less than it saves; not yet measured
_log = logging.getLogger("nasenv")


class GraphedFunction:
    """Calls a function without arguments that works in place on a device; on a GPU it replays a CUDA graph.

    On a GPU the first calls are warm-up, real calls on a side stream; then the function is captured as a CUDA graph,
    and a call replays it (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Where it waits for the
    device or cannot be captured, it is called as it is, ``eager`` says why, and the reason is logged.

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
        elif calls < WORTH_CAPTURING:
            self.eager = f"fewer than {WORTH_CAPTURING} steps"

    def __call__(self) -> None:
        """Call the function, or replay its graph."""
        if self._graph is not None:
            self._graph.replay()
        elif self.eager is not None:
            self._act()
        elif self._warm_up > 1:
            self._warm_up -= 1
            self._on_a_side_stream()
        elif self._warm_up == 1:
            self._warm_up = 0
            with _watched() as waits:
                self._on_a_side_stream()
            if waits:
                self._stay_eager(f"it waits for the device in {waits[0]}")
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
        try:
            self._graph = self._captured()
        except Exception as error:
            _recover(self._device)
            cause = error.__context__ or error  # the end of a capture that has failed raises, too
            if not isinstance(cause, RuntimeError) or is_out_of_memory(cause):
                raise cause from None
            self._stay_eager(f"{CAPTURE_FAILED}: {' '.join(str(cause).split())[:200]}")

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Return the graph of a call, which the device has not made.

        `torch.cuda.graph` would give all cached memory back first, which waits for the device, and would leave its
        stream the current one where the capture fails.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(_side_stream(self._device)):  # on another, libraries would make their handles meanwhile
            graph.capture_begin(
                pool=_pool(self._device).id,  # type: ignore[arg-type]
                capture_error_mode="thread_local",
            )
            try:
                self._act()
            finally:
                graph.capture_end()
        return graph

    def _stay_eager(self, reason: str) -> None:
        self.eager = reason
        _log.warning("a training is not captured as a CUDA graph, and slower: %s", reason)


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


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Yield a list that says in the end where the code inside waited for a GPU: ``file.py:line``."""
    waits: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
    waits += [f"{Path(w.filename).name}:{w.lineno}" for w in caught if _WAITED in str(w.message)]


def _recover(device: torch.device) -> None:
    """Have allocator and generator forget a capture that failed; PyTorch leaves them as if it still went on.

    The next capture, freeing cached memory, and dropout would raise.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    with suppress(RuntimeError):  # it had ended for the allocator
        torch._C._cuda_endAllocateToPool(index, _pool(device).id)
    generator = torch.cuda.default_generators[index]
    generator.graphsafe_set_state(generator.clone_state())
