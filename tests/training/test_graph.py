"""Recorded steps train what eager ones train.

There need be no GPU: a traced program stands in for a CUDA graph. It keeps what a graph keeps (the operations, the
places of the tensors, every number that Python knew) and forgets what a graph forgets, so a learning rate read as a
number, a batch taken from where it happened to lie or a branch on a step's count fails here as it would there.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from harness.training import checkpoint, graph
from harness.training.device import Hardware
from harness.training.evaluate import BATCH, evaluate
from harness.training.graph import GraphedStep
from harness.training.loop import Training
from tests.training.build import CPU, Recorder, make_images, make_spec, make_split, timeless
from tests.training.test_loop import EVERYTHING, make_teacher

ADAMW = {"optim": {"optimizer": {"kind": "adamw", "lr": 0.01}, "schedule": {"kind": "one_cycle"}}}
# Without Mixup: of grey images its sum has strides of its own, for which oneDNN rounds the teacher's logits otherwise.
ALL: dict[str, Any] = {**EVERYTHING, "augment": {**EVERYTHING["augment"], "mixup": None}}
SPECS: dict[str, dict[str, Any]] = {
    "plain": {"optim": {"schedule": {"kind": "cosine"}}},
    "cutmix": {"augment": {"crop": {"padding": 1}, "flip": True, "cutmix": {"probability": 0.5}}},
    "dropout": {"model": {"dropout": 0.3}},
    "stochastic depth": {"model": {"stochastic_depth": 0.5}},
    "lookahead": {"optim": {"lookahead": {"k": 2, "alpha": 0.5}}},
    "mixup": {"augment": {"mixup": {"alpha": 0.4}}},
    "everything": ALL,
}


class Tracer:
    """Records a function as the program of its operations. Tracing does them once, so what they changed is put back."""

    def __init__(self, state: Callable[[], Iterable[Tensor]]):
        self.state = state
        self.recorded, self.affordable = 0, True

    def is_affordable(self) -> bool:
        return self.affordable

    def forget(self) -> None:
        """Nothing is kept."""

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        before, random = [(tensor, tensor.detach().clone()) for tensor in self.state()], torch.get_rng_state()
        program = make_fx(lambda: function())()
        torch.set_rng_state(random)
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
        self.recorded += 1
        results = (torch.zeros(()), torch.zeros((), dtype=torch.int64), torch.zeros(()))

        @torch.no_grad()  # the backward pass is among the operations
        def replay() -> None:
            for place, value in zip(results, program() or (), strict=False):
                place.copy_(value)

        return replay, results


def tensors_of(training: Training) -> list[Tensor]:
    states = [value for state in training.optimizer.state.values() for value in state.values()]
    slow = training.lookahead.slow if training.lookahead else []
    return [*training.model.parameters(), *training.model.buffers(), *filter(torch.is_tensor, states), *slow]


def make_training(sections: dict[str, Any], graphed: bool, hardware: Hardware = CPU) -> Training:
    """84 images in batches of 8: eleven steps an epoch, the last of them smaller."""
    spec = make_spec(**{**sections, "train": {"epochs": 5, "batch_size": 8, "precision": "fp32"}})
    training = Training(spec, 2, make_split(84), hardware, make_teacher(spec))
    if graphed:
        training.record_with(Tracer(lambda: tensors_of(training)))
    return training


def fit(training: Training, stop_after: int | None = None) -> Recorder:
    listener = Recorder(stop_after)
    training.fit(listener)
    return listener


def assert_same_weights(one: Training, other: Training) -> None:
    for name, tensor in one.evaluated.state_dict().items():
        assert torch.equal(tensor, other.evaluated.state_dict()[name]), name


@pytest.mark.parametrize("name", SPECS)
def test_a_recorded_training_equals_the_eager_one_bit_for_bit(name: str) -> None:
    eager, graphed = (make_training(SPECS[name], graphed) for graphed in (False, True))
    rows = [timeless(fit(training).rows) for training in (eager, graphed)]
    assert rows[0] == rows[1]
    assert torch.equal(eager.gradient_norms, graphed.gradient_norms)
    assert eager.gradient_norms.all()
    assert_same_weights(eager, graphed)


def test_a_recorded_adamw_equals_the_eager_one_up_to_rounding() -> None:
    """Its learning rate on the device has the 24 bits of a float32, of which torch's eager kernel computes with 53."""
    eager, graphed = (fit(make_training(ADAMW, graphed)).rows for graphed in (False, True))
    for name in ("train_loss", "val_loss", "lr"):
        assert [row[name] for row in graphed] == pytest.approx([row[name] for row in eager], rel=1e-3)


def test_one_recording_per_size_of_batch_mixed_or_not_and_one_of_lookahead() -> None:
    training = make_training(SPECS["cutmix"] | SPECS["lookahead"], True)
    fit(training)
    assert isinstance(training.step, GraphedStep)
    # the smaller batch comes once an epoch: of its two kinds at most one is warm after five
    kinds = {(shape[0], mixed) for shape, _, mixed in training.step.recordings}
    assert {(8, True), (8, False)} <= kinds <= {(8, True), (8, False), (4, True), (4, False)}
    assert training.step.record.recorded == len(training.step.recordings) + 1  # type: ignore[attr-defined]
    assert len(training.step.recordings) == len(kinds)
    cold = set(training.step.calls) - set(training.step.recordings)
    assert all(training.step.calls[kind] <= graph.WARM_UP for kind in cold)


def test_a_training_too_large_to_be_recorded_stays_eager() -> None:
    eager, graphed = (make_training(ALL, graphed) for graphed in (False, True))
    assert isinstance(graphed.step, GraphedStep)
    graphed.step.record.affordable = False  # type: ignore[attr-defined]
    assert timeless(fit(graphed).rows) == timeless(fit(eager).rows)
    assert graphed.step.record.recorded == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("sections", [ALL, ADAMW], ids=["sgd", "adamw"])
def test_an_eager_training_goes_on_from_a_recorded_ones_state(sections: dict[str, Any]) -> None:
    """With plain numbers for settings: a run may continue on a device, or in a mode, that records nothing."""
    graphed, eager = make_training(sections, True), make_training(sections, False)
    saved = fit(graphed, stop_after=30).saved
    assert saved
    eager.load_state_dict(torch.load(io.BytesIO(checkpoint.serialise(saved)), weights_only=True))
    groups = eager.optimizer.param_groups
    assert all(isinstance(group["lr"], float) and not group.get("capturable") for group in groups)
    rows, expected = fit(eager).rows, fit(make_training(sections, False)).rows
    assert [row["val_loss"] for row in rows] == pytest.approx([row["val_loss"] for row in expected[2:]], rel=1e-3)


@pytest.mark.parametrize("stop_after", [3, *(pytest.param(epoch, marks=pytest.mark.slow) for epoch in (14, 30))])
def test_a_recorded_training_continues_exactly(stop_after: int) -> None:
    """In another process, and in the same one, whose recordings know the optimiser's tensors of before."""
    whole, begun, anew = (make_training(ALL, True) for _ in range(3))
    rows = timeless(fit(whole).rows)
    stopped = fit(begun, stop_after)
    assert stopped.saved
    saved = checkpoint.serialise(stopped.saved)
    fit(begun, stop_after=5)  # goes on, with its recordings, to be taken back
    for training in (anew, begun):
        training.load_state_dict(torch.load(io.BytesIO(saved), weights_only=True))
        assert timeless(stopped.rows + fit(training).rows) == rows
        assert_same_weights(whole, training)


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for the device: a tensor's value, or a result whose size depends on one."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.active, self.seen = False, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.active:
            name = func.__name__.split(".")[0]
            assert name not in self.WAITS, name
            # a mask as an index is one `nonzero` more
            assert name != "index" or all(index is None or index.dtype is not torch.bool for index in args[1])
            self.seen += 1
        return func(*args, **(kwargs or {}))


class Epochs(Recorder):
    """Watches from the end of each epoch's first step to the end of its last."""

    def __init__(self, watch: NoWaiting):
        super().__init__()
        self.watch = watch

    def step_done(self, epoch: int, step: int, steps: int) -> None:
        self.watch.active = step < steps


@pytest.mark.parametrize("name", SPECS)
def test_the_host_never_waits_inside_an_epoch(name: str) -> None:
    watch = NoWaiting()
    training = make_training(SPECS[name], False)
    with watch:
        training.fit(Epochs(watch))
    assert watch.seen > 1000


def test_deterministic_trainings_are_not_recorded() -> None:
    """And a CPU never is: `graphs` is off there."""
    hardware = Hardware(torch.device("cpu"), "test", "fp32", 1, graphs=True)
    spec = make_spec(train={"epochs": 1, "batch_size": 8, "precision": "fp32", "deterministic": True})
    assert not isinstance(Training(spec, 0, make_split(), hardware).step, GraphedStep)
    spec = make_spec(train={"epochs": 1, "batch_size": 8, "precision": "fp32"})
    assert isinstance(Training(spec, 0, make_split(), hardware).step, GraphedStep)
    assert not isinstance(Training(spec, 0, make_split(), CPU).step, GraphedStep)


class Cramped(torch.nn.Module):
    """A network on a device whose memory holds so many images at once."""

    def __init__(self, holds: int, error: Exception):
        super().__init__()
        self.holds, self.error, self.seen, self.tried = holds, error, list[int](), 0

    def forward(self, images: Tensor) -> Tensor:
        self.tried += 1
        if len(images) > self.holds:
            raise self.error
        self.seen.append(len(images))
        return images.flatten(1)[:, :10]


NO_ROOM = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 23560192 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_ROOM, ids=lambda error: type(error).__name__)
def test_evaluation_takes_batches_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setitem(BATCH, "cpu", 64)
    images = make_images(100)
    normalise = make_training({}, False).normalise
    roomy, cramped = Cramped(1000, error), Cramped(20, error)
    expected = evaluate(roomy, images, normalise, CPU)
    result = evaluate(cramped, images, normalise, CPU)
    assert roomy.seen == [64, 36]
    assert cramped.seen == [16] * 6 + [4]
    assert torch.equal(result.logits, expected.logits)
    with pytest.raises(type(error)):
        evaluate(Cramped(0, error), images, normalise, CPU)


def test_evaluation_does_not_try_again_what_is_no_lack_of_memory() -> None:
    broken = Cramped(0, RuntimeError("sizes differ"))
    with pytest.raises(RuntimeError, match="sizes differ"):
        evaluate(broken, make_images(100), make_training({}, False).normalise, CPU)
    assert broken.tried == 1
