"""CUDA graphs: what a step launches, recorded once and replayed as one launch.

At batch 128 a fast GPU is done with a step's few hundred kernels before Python has launched them. A recorded step
reads its batch from fixed places, which each replay fills first, and does everything else (dropout's masks, the
weights it moves, the learning rate) where the eager step does it, so both train the same.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from harness.training.augment import Batch
from harness.training.mixing import MixedBatch

WARM_UP = 3
"""Eager calls before one is recorded: by then buffers exist, kernels are chosen, compilation is done."""
LEAD = 32
"""Steps that the host may be ahead of the device."""
AFFORDABLE = 0.4
"""Share of the device's memory up to which a training is recorded. Recordings keep what a step needs to themselves, so
eager steps beside them need as much once more; and a step this large is not bound by its launches."""

Result = TypeVar("Result")
StepResult = tuple[Tensor, Tensor, Tensor]
"""Of one step, on the device: its loss, how many images were right, the norm of its gradients before any clipping."""
Step = Callable[[Batch, Tensor | None], StepResult]


class Recorder(Protocol):
    """Records what a function launches."""

    def __call__(self, function: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        """A call that does it all again, and the function's result, which each replay overwrites.

        Recording need not execute anything, so the first replay is to follow.
        """

    def is_affordable(self) -> bool:
        """Whether there is memory for recordings beside what was in use so far."""

    def forget(self) -> None:
        """What was recorded is not replayed any more."""


class CudaRecorder:
    """Records CUDA graphs on the current stream, which must not be the default one; they share their memory.

    Sharing is right as long as no graph needs another's leftovers: results are copied out right after a replay.
    """

    def __init__(self) -> None:
        self.pool: Any = None

    def __call__(self, function: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        graph = torch.cuda.CUDAGraph()
        # other threads of the process may do as they like meanwhile
        stream, mode = torch.cuda.current_stream(), "thread_local"
        with torch.cuda.graph(graph, pool=self.pool, stream=stream, capture_error_mode=mode):
            result = function()
        self.pool = graph.pool()
        return graph.replay, result

    def is_affordable(self) -> bool:
        _, total = torch.cuda.mem_get_info()
        return torch.cuda.max_memory_allocated() < AFFORDABLE * total

    def forget(self) -> None:
        self.pool = None


class GraphedCall:
    """A function without arguments or result that works on fixed tensors: eager at first, then replayed."""

    def __init__(self, function: Callable[[], None], record: Recorder):
        self.function, self.record = function, record
        self.calls = 0
        self.replay: Callable[[], None] | None = None

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= WARM_UP or not (self.replay or self.record.is_affordable()):
            self.function()
            return
        if self.replay is None:
            self.replay, _ = self.record(self.function)
        self.replay()


class GraphedStep:
    """A training step: eager at first, then replayed, with one recording per layout of images, mixed or not.

    Eager to its end where recordings would need more memory than there is.

    Calls are as of the step itself. What they return is overwritten by the next call.
    """

    def __init__(self, step: Step, record: Recorder):
        self.step, self.record = step, record
        self.calls: Counter[Hashable] = Counter()
        self.recordings: dict[Hashable, _Recording] = {}

    def __call__(self, batch: Batch, kept: Tensor | None) -> StepResult:
        kind = tuple(batch.images.shape), batch.images.stride(), batch.mix is not None
        self.calls[kind] += 1
        if self.calls[kind] <= WARM_UP:
            return self.step(batch, kept)
        if kind not in self.recordings:
            if not self.record.is_affordable():
                return self.step(batch, kept)
            self.recordings[kind] = _Recording(self.step, batch, kept, self.record)
        return self.recordings[kind].replay_on(batch, kept)


class _Recording:
    """One recorded step and the fixed places that it reads its batch from."""

    def __init__(self, step: Step, batch: Batch, kept: Tensor | None, record: Recorder):
        self.batch = _fixed(batch)
        self.kept = None if kept is None else kept.clone()
        self.replay, self.results = record(lambda: step(self.batch, self.kept))

    def replay_on(self, batch: Batch, kept: Tensor | None) -> StepResult:
        self.batch.images.copy_(batch.images)
        self.batch.labels.copy_(batch.labels)
        if self.batch.mix and batch.mix:
            assert self.batch.mix.shares is not None
            self.batch.mix.partner.copy_(batch.mix.partner)
            self.batch.mix.shares[0].fill_(batch.mix.kept)
            self.batch.mix.shares[1].fill_(1 - batch.mix.kept)
        if self.kept is not None and kept is not None:
            self.kept.copy_(kept)
        self.replay()
        return self.results


def _fixed(batch: Batch) -> Batch:
    """A batch in memory of its own. Its images are mixed already, so what remains of the mix is what the loss needs."""
    mix = batch.mix
    if mix is not None:
        mix = MixedBatch(mix.partner.clone(), None, mix.kept, torch.empty(2, device=batch.images.device))
    return Batch(batch.images.clone(), batch.labels.clone(), mix, batch.indices)


def work_stream(device: torch.device) -> torch.cuda.Stream | None:
    """On CUDA a stream to train on: the default one can't be recorded. One a training, since memory belongs to it."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


@contextmanager
def working_on(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Everything in the block is done on `stream`, after what came before it and before what comes after."""
    if stream is None:
        yield
        return
    before = torch.cuda.current_stream(stream.device)
    stream.wait_stream(before)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        before.wait_stream(stream)


class Lead:
    """Keeps the host at most `LEAD` steps ahead of a CUDA device, so that progress and Ctrl-C mean what they say.

    It waits for a step that is long past, with the next ones already launched: the device never idles for it.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.events: deque[torch.cuda.Event] = deque()

    def step_launched(self) -> None:
        """To be called after each step."""
        if self.device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record()
        self.events.append(event)
        if len(self.events) > LEAD:
            self.events.popleft().synchronize()

    def wait(self) -> None:
        """Until the device has done all that was launched."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
            self.events.clear()
