"""On a CUDA device: what each means of speed brings, one after another, and where a step's time goes then.

    python -m tests.benchmarks gpu

The published network at batch 128. Each rung of the ladder adds one thing to the one before it; all of them train the
same images in the same batches, and their first losses are checked to agree. TFLOP/s counts what the network has to
compute (three forward passes less the gradient of the stem's input), against the card's matrix product in bf16.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._inductor import config as inductor
from torch.utils.data import DataLoader

from harness.spec.documents import load_experiment
from harness.spec.experiment import ExperimentSpec
from harness.training import augment, device
from harness.training.data import Split, load_split
from harness.training.guard import cost
from harness.training.loop import Training
from harness.training.mixing import mix_images
from tests.benchmarks.loops import HandWritten, Listening, PillowImages
from tests.benchmarks.measuring import ROOT, ROUNDS, Unavailable, data_dir, in_turn

EAGER, GRAPH, COMPILE, TUNED = "eager, loaded by 8 workers", "+ CUDA graph", "+ compile", "+ kernels tuned"
TUNING = {"coordinate_descent_tuning": True, "max_autotune_pointwise": True}
"""Of torch's inductor: its kernels, the sums of batch normalisation above all, are tried in more shapes. Not what the
engine has: whether it should is what the rung is to tell."""
FIRST = 16  # steps whose losses are compared: with and without CutMix, some of each are replayed ones
STEPS = 391
LOADER_STEPS = 40
WORKERS = 8
LOADED_AHEAD = 3 * WORKERS  # batches; DataLoader loads two for each worker
AGREE = 0.05  # relative, of the losses of the first steps in bf16
STEM_MACS = 3 * 64 * 9 * 32 * 32
PROFILES = (GRAPH, COMPILE, TUNED)
PROFILED = 40  # steps
LONGEST = 12  # kernels that are listed by name
KINDS = {
    "changes of layout": "nchwToNhwc|nhwcToNchw|transpose",
    "fused by the compiler": "^triton_",
    "batch normalisation": "batch_?norm|bn_|welford",
    "convolutions and matrix products": "conv|gemm|xmma|cutlass|nvjet|wgrad|dgrad|fprop|splitK",
    "optimiser, clipping, Lookahead": "multi_tensor|fused_sgd|lpnorm",
    "elementwise and sums": "elementwise|reduce|dropout|softmax|nll_loss|index|cat",
    "copies": "memcpy|memset|copy",
}
"""What a kernel does, by the first pattern that its name has."""


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """The ladder, the card's matrix product, and what the steps of the last rungs consist of."""
    if not torch.cuda.is_available():
        raise Unavailable("there is no CUDA device")
    spec, split = subject()
    with device.arithmetic(device.resolve("cuda", "bf16"), deterministic=False):
        ladder = Ladder(spec, split)
        agreement = ladder.check_agreement()
        measured = in_turn(ladder.arms, rounds)
        profiles = {name: profile(ladder.trainings[name]) for name in PROFILES if name in ladder.trainings}
    product = matrix_product()
    work = 2 * (3 * cost(spec).macs - STEM_MACS)
    batch = spec.train.batch_size
    rows = {
        name: {
            "median": measured.median(name),
            "minimum": measured.minimum(name),
            "images_per_second": batch / measured.median(name),
            "seconds_per_epoch": measured.median(name) * STEPS,
            "tflops": batch * work / measured.median(name) / 1e12,
            "share_of_matrix_product": batch * work / measured.median(name) / product,
        }
        for name in ladder.arms
    }
    return {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "matrix_product_tflops": product / 1e12,
        "ladder": rows,
        "loss_differences": agreement,
        "losses_compared": FIRST,
        "seconds_to_begin": ladder.seconds_to_begin,
        "profiles": profiles,
    }


def subject() -> tuple[ExperimentSpec, Split]:
    """The published network without its dropout, whose masks depend on how a kernel walks the memory; its data."""
    changes = ["model.dropout=0.0", "train.compile=false"]
    spec = load_experiment(ROOT / "experiments/baseline.yaml", changes)
    return spec, load_split(spec, data_dir())


class Ladder:
    """The rungs: name -> a function that trains some steps and returns the mean seconds of one."""

    def __init__(self, spec: ExperimentSpec, split: Split):
        hardware = device.resolve("cuda", "bf16")
        eager = device.Hardware(hardware.device, hardware.name, "bf16", hardware.threads, graphs=False)
        resident = split.to(hardware.device)
        compiled = spec.model_copy(update={"train": spec.train.model_copy(update={"compile": True})})
        self.losses: dict[str, list[float]] = {}
        self.trainings: dict[str, Training] = {}
        self.seconds_to_begin: dict[str, float] = {}
        self.arms: dict[str, Callable[[], float]] = {
            EAGER: self._loop(EAGER, Loaded(spec, split, eager).epoch(), LOADER_STEPS, loaded_ahead=LOADED_AHEAD),
            "+ resident data": self._loop("+ resident data", endless(HandWritten(spec, resident, eager)), STEPS),
            "the engine, eager": self._engine("the engine, eager", Training(spec, 0, resident, eager)),
            GRAPH: self._engine(GRAPH, Training(spec, 0, resident, hardware)),
        }
        if device.can_compile():
            self.arms[COMPILE] = self._engine(COMPILE, Training(compiled, 0, resident, hardware))
            with inductor.patch(TUNING):
                self.arms[TUNED] = self._engine(TUNED, Training(compiled, 0, resident, hardware))

    def _loop(self, name: str, losses: Iterator[Tensor], steps: int, loaded_ahead: int = 0) -> Callable[[], float]:
        self.losses[name] = [float(next(losses)) for _ in range(FIRST)]

        def arm() -> float:
            for _ in range(loaded_ahead):  # what was loaded while other arms had their turn is no work of this one
                next(losses)
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(steps):
                next(losses)
            torch.cuda.synchronize()
            return (time.perf_counter() - began) / steps

        return arm

    def _engine(self, name: str, training: Training) -> Callable[[], float]:
        """Whole epochs as the journal has them, without their evaluation."""
        self.trainings[name] = training
        began = time.perf_counter()
        training.fit(Listening(FIRST))
        self.seconds_to_begin[name] = time.perf_counter() - began
        self.losses[name] = training.progress.losses[:FIRST].tolist()

        def arm() -> float:
            listener = Listening(training.steps - training.progress.step)
            training.fit(listener)
            return float(listener.rows[-1]["seconds"]) / training.steps

        return arm

    def check_agreement(self) -> dict[str, float]:
        """The largest relative difference of each rung's first losses to the eager one's.

        RuntimeError where it is too large.
        """
        reference, found = self.losses["+ resident data"], dict[str, float]()
        for name, losses in self.losses.items():
            found[name] = max(abs(loss / other - 1) for loss, other in zip(losses, reference, strict=True))
            if found[name] > AGREE:
                raise RuntimeError(f"{name} does not train what the eager step trains: {losses}, {reference}")
        return found


def endless(loop: HandWritten) -> Iterator[Tensor]:
    number = 0
    while True:
        number += 1
        yield from loop.epoch(number)


class Loaded(HandWritten):
    """The eager step on batches that workers load and Pillow transforms, copied to the card step by step."""

    def epoch(self, number: int = 1) -> Iterator[Tensor]:
        while True:
            cpu = torch.device("cpu")
            drawn = augment.draw_epoch(self.spec, self.seed, number, len(self.train), cpu)
            mixes = augment.draw_epoch(self.spec, self.seed, number, len(self.train), self.hardware.device)
            loader = DataLoader(
                PillowImages(self.train, drawn, self.spec),
                batch_size=self.spec.train.batch_size,
                sampler=drawn.order.tolist(),
                num_workers=min(WORKERS, os.cpu_count() or 1),
                pin_memory=True,
            )
            for step, (images, labels) in enumerate(loader):
                images = images.to(self.hardware.device, memory_format=torch.channels_last, non_blocking=True)
                labels = labels.to(self.hardware.device, non_blocking=True)
                mix = mixes.mix(step)
                if mix:
                    images, kept = mix_images(images, mix), mix.kept
                    yield self.train_on(images, labels, labels[mix.partner], kept)
                else:
                    yield self.train_on(images, labels, labels, 1.0)
            number += 1


def matrix_product(size: int = 8192) -> float:
    """FLOP/s of the card's product of two bf16 matrices."""
    one, other = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            one @ other
        torch.cuda.synchronize()
        times.append((time.perf_counter() - began) / 10)
    return 2 * size**3 / statistics.median(times[5:])


def profile(training: Training) -> dict[str, Any]:
    """What the device does in a step of a training that has long begun: its kernels by kind, and the longest."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        training.fit(Listening(PROFILED))
        torch.cuda.synchronize()
    kernels = [
        (str(event.name), event.time_range.elapsed_us() / 1e6 / PROFILED)
        for event in profiler.events() or ()
        if event.device_type == DeviceType.CUDA and "#" not in event.name  # those are spans of what a user named
    ]
    return summed(kernels)


def summed(kernels: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Seconds and launches by kind of kernel, seconds of the longest by name, all a step's.

    From (name, seconds / PROFILED) of each launch in PROFILED steps.
    """
    kinds, names = defaultdict[str, float](float), defaultdict[str, float](float)
    launches: Counter[str] = Counter()
    for name, seconds in kernels:
        kinds[kind_of(name)] += seconds
        names[name] += seconds
        launches[kind_of(name)] += 1
    return {
        "kinds": dict(_longest_first(kinds)),
        "launches": {kind: count / PROFILED for kind, count in launches.items()},
        "longest": _longest_first(names)[:LONGEST],
    }


def _longest_first(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])


def kind_of(kernel: str) -> str:
    """The kind in `KINDS` of a kernel of this name."""
    found = (kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE))
    return next(found, "other")
