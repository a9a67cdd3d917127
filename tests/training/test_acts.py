"""Proof that every field of the spec acts: what it changes, how, and that it changes nothing else.

One table. Each row trains twice with one seed, with the field at `off` and at `on`, and names everything about the
two trainings that may differ: draws, initial weights, batches, learning rates, steps. All else must be equal bit for
bit; `check` is the formula or the direction. A field that is added later without a row fails `test_every_field`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from harness.judge import judge
from harness.spec.composition import apply_overrides
from harness.spec.documents import experiment_from_dict
from harness.spec.experiment import ExperimentSpec
from harness.spec.fields import field_paths, leaf_paths, submodels
from harness.training import device, loop
from harness.training.augment import EpochDraws
from harness.training.data import load_split
from harness.training.guard import cost
from harness.training.loop import Training
from harness.training.model import build_model, initialise
from tests.training.build import CPU, Recorder, make_split

PLAIN: dict[str, Any] = {
    "name": "plain",
    "model": {"depths": [1, 1], "width": 8},
    "data": {"dataset": "digits"},
    "optim": {"optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}},
    "train": {"epochs": 1, "batch_size": 32, "precision": "fp32"},
}
DRAWS = [item.name for item in fields(EpochDraws)]


# --- one training, and all about it that a field may change ---


class Trace(Recorder):
    """A listener that keeps everything that was drawn and everything that was done with it, step by step."""

    def __init__(self, overrides: dict[str, Any], epochs: int, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        tree = apply_overrides(PLAIN | {"train": {**PLAIN["train"], "epochs": epochs}}, overrides)
        self.spec = experiment_from_dict(tree)
        hardware = CPU if self.spec.train.precision == "fp32" else type(CPU)(CPU.device, "test", "bf16", 1)
        self.training = Training(self.spec, 3, make_split(), hardware, teacher_of(self.spec))
        self.parts: dict[str, list[Any]] = {name: [] for name in (*DRAWS, "kept", "dropout", "images", "lr", "steps")}
        model = self.training.model
        self.parts["parameters"] = [{name: tuple(p.shape) for name, p in model.named_parameters()}]
        self.initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.gradients: list[Tensor] = []
        with monkeypatch.context() as patched:
            patched.setattr(loop.augment, "draw_epoch", self._spy(loop.augment.draw_epoch, self._drawn))
            patched.setattr(loop, "draw_kept", self._spy(loop.draw_kept, self.parts["kept"].append))
            seed_step = self._spy(loop.draws.seed_step, lambda _: None, self.parts["dropout"].append)
            patched.setattr(loop.draws, "seed_step", seed_step)
            hook = model.register_forward_pre_hook(self._seen)
            optimizer_hook = self.training.optimizer.register_step_pre_hook(lambda *_: self._stepping())
            self.outcome = self.training.fit(self)
            hook.remove()
            optimizer_hook.remove()
        self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.evaluated = {name: tensor.clone() for name, tensor in self.training.evaluated.state_dict().items()}

    def _spy(self, original: Callable[..., Any], result: Callable, arguments: Callable | None = None) -> Callable:
        def spy(*given: Any) -> Any:
            if arguments:
                arguments(given)
            made = original(*given)
            result(made)
            return made

        return spy

    def _drawn(self, drawn: EpochDraws) -> None:
        for name in DRAWS:
            self.parts[name].append(getattr(drawn, name))

    def _seen(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if model.training:
            self.parts["images"].append(inputs[0].clone())

    def _stepping(self) -> None:
        self.gradients.append(torch.cat([p.grad.flatten() for p in self.training.parameters if p.grad is not None]))

    def step_done(self, epoch: int, step: int, steps: int) -> None:
        super().step_done(epoch, step, steps)
        self.parts["lr"].append(self.training.learning_rate.used)
        self.parts["steps"].append((epoch, step, steps))

    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.parts["parameters"][0].values())


def teacher_of(spec: ExperimentSpec) -> nn.Module | None:
    """A fixed network to learn from: another one for each name."""
    if spec.loss.distill is None:
        return None
    teacher = build_model(spec, "cpu")
    initialise(teacher, {"one": 100, "other": 101}[spec.loss.distill.teacher])
    return teacher.eval()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if hasattr(one, "partner") and hasattr(other, "partner"):
        return one.kept == other.kept and one.box == other.box and torch.equal(one.partner, other.partner)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return all(same(a, b) for a, b in zip(one, other, strict=False))  # as far as both go
    return bool(type(one) is type(other) and one == other)


def differences(one: Trace, other: Trace) -> set[str]:
    """What differs, beside what follows from it: the weights that are reached and the rows that are told."""
    found = {part for part in one.parts if not same(one.parts[part], other.parts[part])}
    shared = {n for n in one.initial.keys() & other.initial.keys() if one.initial[n].shape == other.initial[n].shape}
    assert shared
    return found | {f"initial {name}" for name in shared if not torch.equal(one.initial[name], other.initial[name])}


def weights_differ(off: Trace, on: Trace) -> bool:
    return not all(torch.equal(off.weights[n], on.weights[n]) for n in off.weights.keys() & on.weights.keys()) or (
        off.weights.keys() != on.weights.keys()
    )


# --- the table ---


@dataclass(frozen=True)
class Row:
    """`field` (with `kind`, where several kinds have it) at `off` and `on`; `base` holds for both.

    `epochs` is the length in which it acts; `changes` all that may and must differ before the weights do;
    `moves` whether the weights must differ at the end.
    """

    field: str
    off: Any
    on: Any
    check: Callable[[Trace, Trace], bool]
    base: dict[str, Any] = field(default_factory=dict)
    epochs: int = 1
    changes: frozenset[str] = frozenset()
    moves: bool = True
    kind: str | None = None

    def __str__(self) -> str:
        return f"{self.field}{f' ({self.kind})' if self.kind else ''} {self.off} -> {self.on}"


def some(*names: str) -> frozenset[str]:
    return frozenset(names)


def mixed(mixes: list[Any]) -> list[Any]:
    return [mix for epoch in mixes for mix in epoch if mix]


def lr(trace: Trace) -> list[float]:
    return trace.parts["lr"]


def first_loss(trace: Trace) -> float:
    return float(trace.rows[0]["train_loss"])


def norm(tensor: Tensor) -> float:
    return float(tensor.norm())


def moved(trace: Trace, name: str) -> float:
    return norm(trace.weights[name] - trace.initial[name])


def least(parts: list[Tensor]) -> float:
    return float(parts[0].min())


PIXELS = some("images")
CONVOLUTION = "groups.1.0.conv1.weight"
CUTMIX = {"augment.cutmix": {"probability": 1.0}}
MIXUP = {"augment.mixup": {}}
DISTILL = {"loss.distill": {"teacher": "one", "temperature": 2.0, "weight": 0.5}}
ADAMW = {"kind": "adamw", "lr": 0.01}
NO_MOMENTUM = {"optim.optimizer.momentum": 0.0}


def schedule(kind: str, **settings: Any) -> dict[str, Any]:
    return {"optim.schedule": {"kind": kind, **settings}}


PLATEAU = schedule("plateau", monitor="train_loss", factor=0.5, patience=0, threshold=0.9)


def network(path: str, off: Any, on: Any, check: Callable[[Trace, Trace], bool], **base: Any) -> Row:
    return Row(path, off, on, check, base, changes=some("parameters"))


TABLE = [
    # model: other parameters, the shared ones as they were, everything else untouched
    network("model.depths", [1, 1], [2, 1], lambda off, on: "groups.0.1.conv1.weight" in on.initial),
    # (a bias is drawn within 1 / sqrt(fan_in), so from the same draw it is another where the layer has other inputs)
    Row("model.width", 8, [8, 12], lambda off, on: on.initial["classifier.weight"].shape[1] == 12,
        changes=some("parameters", "initial classifier.bias")),
    network("model.kernel_size", 3, [3, 5], lambda off, on: on.initial["groups.1.0.conv1.weight"].shape[2:] == (5, 5)),
    network("model.block", "basic", "preactivation", lambda off, on: "head_norm.weight" in on.initial),
    network("model.norm", "batch", "none", lambda off, on: not any("norm" in name for name in on.initial)),
    network("model.shortcut", "projection", "none", lambda off, on: not any("project" in name for name in on.initial)),
    network(
        "model.se", None, {"reduction": 4}, lambda off, on: on.parameter_count() - off.parameter_count() == 2 * 16 + 10
    ),
    network(
        "model.se.placement", "stem", "block", lambda off, on: "groups.1.0.se.fc1.weight" in on.initial,
        **{"model.se": {"reduction": 4}},
    ),
    Row("model.se.reduction", 4, 2, lambda off, on: on.initial["se.fc1.weight"].shape[0] == 4,
        base={"model.se": {}}, changes=some("parameters", "initial se.fc2.bias")),
    Row("model.dropout", 0.0, 0.5, lambda off, on: first_loss(on) > first_loss(off)),
    Row(
        "model.stochastic_depth", 0.0, 0.5, changes=some("kept"),
        check=lambda off, on: off.parts["kept"] == [None] and bool((on.parts["kept"][0][:, 1] == 0).any()),
    ),
    Row("model.zero_init", False, True, lambda off, on: not on.initial["groups.1.0.norm2.weight"].any(),
        changes=some("initial groups.0.0.norm2.weight", "initial groups.1.0.norm2.weight")),
    # augment: its own draws and the pixels that the network sees
    Row("augment.crop", None, {"padding": 2}, lambda off, on: int(on.parts["offsets"][0].max()) == 4,
        changes=PIXELS | {"offsets"}),
    Row("augment.crop.padding", 1, 2, lambda off, on: int(off.parts["offsets"][0].max()) == 2,
        base={"augment.crop": {}}, changes=PIXELS | {"offsets"}),
    Row("augment.flip", False, True, lambda off, on: 20 < int(on.parts["mirrored"][0].sum()) < 60,
        changes=PIXELS | {"mirrored"}),
    Row("augment.rotation", None, {"degrees": 30.0}, changes=PIXELS | {"degrees"},
        check=lambda off, on: 25 < float(on.parts["degrees"][0].abs().max()) <= 30),
    Row("augment.rotation.degrees", 10.0, 20.0, changes=PIXELS | {"degrees"}, base={"augment.rotation": {}},
        check=lambda off, on: torch.allclose(on.parts["degrees"][0], 2 * off.parts["degrees"][0], atol=1e-4)),
    Row("augment.scaling", None, {"low": 0.5, "high": 1.5}, changes=PIXELS | {"factors"},
        check=lambda off, on: 0.5 <= least(on.parts["factors"]) < 0.6 < 1.4 < float(on.parts["factors"][0].max())),
    Row("augment.scaling.low", 0.9, 0.5, lambda off, on: float(on.parts["factors"][0].min()) < 0.9,
        base={"augment.scaling": {}}, changes=PIXELS | {"factors"}),
    Row("augment.scaling.high", 1.1, 1.5, lambda off, on: float(on.parts["factors"][0].max()) > 1.1,
        base={"augment.scaling": {}}, changes=PIXELS | {"factors"}),
    Row("augment.trivial_augment", False, True, lambda off, on: len(on.parts["operations"][0][:, 0].unique()) == 14,
        changes=PIXELS | {"operations"}),
    Row("augment.cutout", None, {"size": 4}, lambda off, on: int((on.parts["images"][0] == 0).sum()) >= 32 * 4,
        changes=PIXELS | {"centres"}),
    Row("augment.cutout.size", 2, 6, base={"augment.cutout": {"size": 1}}, changes=PIXELS,
        check=lambda off, on: int((on.parts["images"][0] == 0).sum()) > 3 * int((off.parts["images"][0] == 0).sum())),
    Row("augment.cutmix", None, {"probability": 1.0}, lambda off, on: len(mixed(on.parts["cutmixes"])) == 3,
        changes=PIXELS | {"cutmixes"}),
    Row("augment.cutmix.probability", 0.3, 1.0, epochs=2, base=CUTMIX, changes=PIXELS | {"cutmixes"},
        check=lambda off, on: len(mixed(off.parts["cutmixes"])) < len(mixed(on.parts["cutmixes"])) == 6),
    Row("augment.cutmix.alpha", 1.0, 1000.0, epochs=3, base=CUTMIX, changes=PIXELS | {"cutmixes"},
        check=lambda off, on: {m.box[1] - m.box[0] for m in mixed(on.parts["cutmixes"])} <= {2, 3, 4}),
    Row("augment.mixup", None, {}, lambda off, on: all(mix.box is None for mix in mixed(on.parts["mixups"])),
        changes=PIXELS | {"mixups"}),
    Row("augment.mixup.probability", 0.3, 1.0, epochs=2, base=MIXUP, changes=PIXELS | {"mixups"},
        check=lambda off, on: len(mixed(off.parts["mixups"])) < len(mixed(on.parts["mixups"])) == 6),
    Row("augment.mixup.alpha", 1.0, 1000.0, epochs=3, base=MIXUP, changes=PIXELS | {"mixups"},
        check=lambda off, on: all(abs(mix.kept - 0.5) < 0.1 for mix in mixed(on.parts["mixups"]))),
    # optim: the same batches, other steps
    Row("optim.optimizer.kind", {"kind": "sgd", "lr": 0.01}, ADAMW, kind="adamw",
        check=lambda off, on: moved(on, "classifier.bias") > 0),
    Row("optim.optimizer.lr", 0.1, 0.2, kind="sgd", changes=some("lr"), base=NO_MOMENTUM,
        check=lambda off, on: lr(on) == [2 * value for value in lr(off)]),
    Row("optim.optimizer.lr", 0.01, 0.02, kind="adamw", changes=some("lr"), base={"optim.optimizer": ADAMW},
        check=lambda off, on: lr(on) == [2 * value for value in lr(off)]),
    Row("optim.optimizer.momentum", 0.0, 0.9, base=NO_MOMENTUM, kind="sgd",
        check=lambda off, on: moved(on, "stem.weight") > moved(off, "stem.weight")),
    Row("optim.optimizer.nesterov", False, True, lambda off, on: torch.equal(off.gradients[0], on.gradients[0]),
        kind="sgd"),
    Row("optim.optimizer.weight_decay", 0.0, 0.5, kind="sgd",
        check=lambda off, on: norm(on.weights[CONVOLUTION]) < norm(off.weights[CONVOLUTION])),
    Row("optim.optimizer.weight_decay", 0.0, 5.0, kind="adamw", base={"optim.optimizer": ADAMW},
        check=lambda off, on: norm(on.weights[CONVOLUTION]) < norm(off.weights[CONVOLUTION])),
    Row("optim.optimizer.exempt_norm_and_bias", False, True, kind="sgd", base={"optim.optimizer.weight_decay": 0.5},
        check=lambda off, on: norm(on.weights["stem_norm.weight"]) > norm(off.weights["stem_norm.weight"])),
    Row("optim.optimizer.exempt_norm_and_bias", False, True, kind="adamw",
        base={"optim.optimizer": ADAMW | {"weight_decay": 5.0}},
        check=lambda off, on: norm(on.weights["stem_norm.weight"]) > norm(off.weights["stem_norm.weight"])),
    Row("optim.optimizer.betas", [0.9, 0.999], [0.0, 0.999], kind="adamw", base={"optim.optimizer": ADAMW},
        check=lambda off, on: torch.equal(off.gradients[0], on.gradients[0])),
    Row("optim.optimizer.eps", 1e-8, 1.0, kind="adamw", base={"optim.optimizer": ADAMW},
        check=lambda off, on: moved(on, "stem.weight") < moved(off, "stem.weight")),
    Row("optim.schedule.kind", "constant", "cosine", epochs=3, changes=some("lr"), kind="cosine",
        check=lambda off, on: lr(on)[::3] == pytest.approx([0.1, 0.075, 0.025])),
    Row("optim.schedule.kind", {"kind": "constant"}, {"kind": "one_cycle"}, epochs=3, changes=some("lr"),
        kind="one_cycle", check=lambda off, on: max(lr(on)) < 0.1001 and lr(on)[0] == pytest.approx(0.004)),
    Row("optim.schedule.kind", {"kind": "constant"}, {"kind": "cyclic", "min_lr": 0.01, "half_cycle": 1}, epochs=3,
        changes=some("lr"), kind="cyclic", check=lambda off, on: lr(on)[::3] == pytest.approx([0.01, 0.1, 0.01])),
    Row("optim.schedule.kind", {"kind": "constant"}, {"kind": "multi_step", "milestones": [1]}, epochs=2,
        changes=some("lr"), kind="multi_step", check=lambda off, on: lr(on) == pytest.approx([0.1] * 3 + [0.01] * 3)),
    Row("optim.schedule.kind", {"kind": "constant"}, PLATEAU["optim.schedule"], epochs=3, changes=some("lr"),
        kind="plateau", check=lambda off, on: lr(on) == [0.1] * 6 + [0.05] * 3),
    Row("optim.schedule.min_lr", 0.0, 0.05, epochs=3, changes=some("lr"), base=schedule("cosine"), kind="cosine",
        check=lambda off, on: lr(on)[::3] == pytest.approx([0.1, 0.0875, 0.0625])),
    Row("optim.schedule.min_lr", 0.01, 0.05, epochs=2, changes=some("lr"), kind="cyclic",
        base=schedule("cyclic", half_cycle=1), check=lambda off, on: (lr(off)[0], lr(on)[0]) == (0.01, 0.05)),
    Row("optim.schedule.min_lr", 0.0, 0.09, epochs=3, changes=some("lr"), base=PLATEAU, kind="plateau",
        check=lambda off, on: (lr(off)[-1], lr(on)[-1]) == (0.05, 0.09)),
    Row("optim.schedule.peak_at", 0.3, 0.7, epochs=4, changes=some("lr"), base=schedule("one_cycle"), kind="one_cycle",
        check=lambda off, on: lr(off).index(max(lr(off))) < lr(on).index(max(lr(on)))),
    Row("optim.schedule.start_divisor", 25.0, 5.0, epochs=3, changes=some("lr"), base=schedule("one_cycle"),
        kind="one_cycle", check=lambda off, on: lr(on)[0] == pytest.approx(0.02)),
    Row("optim.schedule.end_divisor", 10_000.0, 10.0, epochs=3, changes=some("lr"), base=schedule("one_cycle"),
        kind="one_cycle", check=lambda off, on: lr(on)[-1] == pytest.approx(0.0004)),
    Row("optim.schedule.anneal", "cosine", "linear", epochs=4, changes=some("lr"), base=schedule("one_cycle"),
        kind="one_cycle", check=lambda off, on: lr(on)[-2] - lr(on)[-1] > lr(off)[-2] - lr(off)[-1]),
    Row("optim.schedule.half_cycle", 1, 2, epochs=3, changes=some("lr"), base=schedule("cyclic", min_lr=0.01),
        kind="cyclic", check=lambda off, on: lr(off)[3] == pytest.approx(0.1) and lr(on)[6] == pytest.approx(0.1)),
    Row("optim.schedule.mode", "triangular", "triangular2", epochs=4, changes=some("lr"), kind="cyclic",
        base=schedule("cyclic", min_lr=0.01, half_cycle=1), check=lambda off, on: lr(on)[9] == pytest.approx(0.055)),
    Row("optim.schedule.gamma", 0.9, 0.5, epochs=2, changes=some("lr"), kind="cyclic",
        base=schedule("cyclic", min_lr=0.01, half_cycle=1, mode="exp_range"),
        check=lambda off, on: lr(on)[3] == pytest.approx(0.01 + 0.09 * 0.5**3)),
    Row("optim.schedule.gamma", 0.1, 0.5, epochs=2, changes=some("lr"), base=schedule("multi_step", milestones=[1]),
        kind="multi_step", check=lambda off, on: lr(on)[-1] == pytest.approx(0.05)),
    Row("optim.schedule.milestones", [1], [1, 2], epochs=3, changes=some("lr"), base=schedule("multi_step"),
        kind="multi_step", check=lambda off, on: lr(on)[-1] == pytest.approx(0.001)),
    # losses that fall while accuracies rise: looked at as if they should fall, accuracies would be a plateau at once
    Row("optim.schedule.monitor", "train_loss", "val_accuracy", epochs=6, changes=some("lr"), kind="plateau",
        base=PLATEAU | {"optim.schedule.threshold": 0.1}, check=lambda off, on: lr(off)[-1] > lr(on)[-1]),
    Row("optim.schedule.factor", 0.5, 0.2, epochs=3, changes=some("lr"), base=PLATEAU, kind="plateau",
        check=lambda off, on: lr(on)[-1] == pytest.approx(0.02)),
    Row("optim.schedule.patience", 0, 1, epochs=3, changes=some("lr"), base=PLATEAU, kind="plateau",
        check=lambda off, on: lr(on) == [0.1] * 9),
    Row("optim.schedule.threshold", 0.9, 0.0, epochs=3, changes=some("lr"), base=PLATEAU, kind="plateau",
        check=lambda off, on: lr(on) == [0.1] * 9),
    Row("optim.warmup", None, {"epochs": 1, "start": 0.1}, epochs=2, changes=some("lr"),
        check=lambda off, on: lr(on) == pytest.approx([0.01, 0.04, 0.07, 0.1, 0.1, 0.1])),
    Row("optim.warmup.epochs", 1, 2, epochs=3, changes=some("lr"), base={"optim.warmup": {"start": 0.1}},
        check=lambda off, on: lr(on)[3] == pytest.approx(0.055)),
    Row("optim.warmup.start", 0.1, 0.4, epochs=2, changes=some("lr"), base={"optim.warmup": {"epochs": 1}},
        check=lambda off, on: lr(on)[:4] == pytest.approx([0.04, 0.06, 0.08, 0.1])),
    Row("optim.lookahead", None, {"k": 2}, epochs=2,
        check=lambda off, on: moved(on, "stem.weight") < moved(off, "stem.weight")),
    Row("optim.lookahead.k", 5, 2, epochs=2, base={"optim.lookahead": {}},
        check=lambda off, on: [same(*g) for g in zip(off.gradients, on.gradients, strict=True)][1:3] == [True, False]),
    Row("optim.lookahead.alpha", 0.5, 0.1, epochs=2, base={"optim.lookahead": {"k": 1}},
        check=lambda off, on: moved(on, "stem.weight") < moved(off, "stem.weight")),
    # the average follows the weights and does not move them: what is evaluated is another
    Row("optim.ema", None, {"decay": 0.9}, epochs=2, moves=False,
        check=lambda off, on: not torch.equal(on.evaluated["stem.weight"], on.weights["stem.weight"])),
    Row("optim.ema.decay", 0.9, 0.1, epochs=2, moves=False, base={"optim.ema": {}},
        check=lambda off, on: norm(on.evaluated["stem.weight"] - on.weights["stem.weight"])
        < norm(off.evaluated["stem.weight"] - off.weights["stem.weight"])),
    Row("optim.clip", None, {"value": 0.1}, lambda off, on: all(norm(g) <= 0.1001 for g in on.gradients)),
    Row("optim.clip.kind", "norm", "value", base={"optim.clip": {"value": 0.01}},
        check=lambda off, on: norm(off.gradients[0]) <= 0.01001 < norm(on.gradients[0])),
    Row("optim.clip.value", 0.1, 0.05, base={"optim.clip": {"value": 1.0}},
        check=lambda off, on: norm(on.gradients[0]) == pytest.approx(0.05, rel=1e-3)),
    # loss: the same batches, another objective
    Row("loss.label_smoothing", 0.0, 0.5, lambda off, on: norm(on.gradients[0]) < norm(off.gradients[0])),
    Row("loss.distill", None, DISTILL["loss.distill"], lambda off, on: first_loss(on) != first_loss(off)),
    Row("loss.distill.teacher", "one", "other", lambda off, on: first_loss(on) != first_loss(off), base=DISTILL),
    Row("loss.distill.temperature", 1.0, 8.0, lambda off, on: first_loss(on) != first_loss(off), base=DISTILL),
    # two untrained networks hardly disagree, while the labels are far from both
    Row("loss.distill.weight", 0.1, 0.9, lambda off, on: first_loss(on) < first_loss(off), base=DISTILL),
    # train
    Row("train.epochs", 1, 2, lambda off, on: len(on.rows) == 2 and same(off.rows[0]["train_loss"], first_loss(on))),
    Row("train.batch_size", 32, 40, lambda off, on: on.parts["steps"] == [(1, 1, 2), (1, 2, 2)],
        changes=PIXELS | {"steps"}),
    Row("train.early_stopping", None, {"monitor": "val_accuracy", "patience": 1}, epochs=40,
        check=lambda off, on: on.outcome == "stopped_early" and len(on.rows) < len(off.rows) == 40),
    Row("train.early_stopping.patience", 1, 3, epochs=40, base={"train.early_stopping": {"monitor": "val_accuracy"}},
        check=lambda off, on: len(off.rows) < len(on.rows)),
    Row("train.precision", "fp32", "bf16", lambda off, on: first_loss(on) == pytest.approx(first_loss(off), rel=0.05)),
]  # fmt: skip


def at(row: Row, value: Any) -> dict[str, Any]:
    """The row's overrides with its field at `value`; a whole kind is set with all its settings."""
    path = row.field
    if path.endswith(".kind") and isinstance(value, dict):
        path = path.removesuffix(".kind")
    return {**row.base, path: value}


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_it_changes_what_it_should_and_nothing_else(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    off, on = (Trace(at(row, value), row.epochs, monkeypatch) for value in (row.off, row.on))
    assert differences(off, on) == row.changes
    assert row.check(off, on)
    if row.field in ("train.epochs", "train.early_stopping", "train.early_stopping.patience"):
        return  # the same steps, more or fewer of them
    assert weights_differ(off, on) == row.moves


NO_TOGGLE = {"model.depths", "model.width", "train.epochs", "train.batch_size", "train.precision"}  # always something
TOGGLES = [row for row in TABLE if not row.base and row.kind is None and row.field not in NO_TOGGLE]


@pytest.mark.parametrize("row", TOGGLES, ids=str)
def test_off_is_as_if_the_field_had_never_been(row: Row) -> None:
    """Its neutral value written out is the plain experiment, which equals a plain loop bit for bit (test_loop.py)."""
    assert experiment_from_dict(apply_overrides(PLAIN, {row.field: row.off})) == experiment_from_dict(PLAIN)


# --- fields that act outside of the training's steps ---


def check_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (build_model(experiment_from_dict(PLAIN), "cpu") for _ in range(2))
    initialise(one, 0)
    initialise(other, 1)
    assert not torch.equal(one.stem.weight, other.stem.weight)


def check_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = experiment_from_dict(apply_overrides(PLAIN, {"data.dataset": "cifar100"}))
    network = build_model(spec)
    assert (network.stem.in_channels, network.classifier.out_features) == (3, 100)


def check_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    sizes = {}
    for protocol in ("paper", "holdout", "full"):
        split = load_split(experiment_from_dict(apply_overrides(PLAIN, {"data.protocol": protocol})), Path("data"))
        sizes[protocol] = (len(split.train), split.validation and len(split.validation), split.validation_is_test)
    assert sizes == {"paper": (1438, 359, True), "holdout": (1295, 143, False), "full": (1438, None, False)}


def check_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every metric: the run ends `patience` epochs after that metric's best, whatever the others do."""
    for metric in get_args(field_paths(ExperimentSpec)["train.early_stopping.monitor"].annotation):
        trace = Trace({"train.early_stopping": {"monitor": metric, "patience": 2}}, 60, monkeypatch)
        values = [row[metric] for row in trace.rows]
        best = min(values) if metric.endswith("loss") else max(values)
        if trace.outcome == "stopped_early":
            assert values.index(best) == len(values) - 1 - 2, metric
        else:
            assert values.index(best) >= 58, metric


def check_flip_tta(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of both logits, as an evaluation of its own, which leaves the plain one as it was."""
    trace = Trace({}, 1, monkeypatch)
    (plain, one), (flipped, both) = (judge(trace.training, 1, "paper", flip=flip) for flip in (False, True))
    again, _ = judge(trace.training, 1, "paper")
    pixels = trace.training.split.validation.pixels  # type: ignore[union-attr]
    with torch.no_grad():
        network = trace.training.model.eval()
        mirrored = network(trace.training.normalise(pixels.flip(2)))
    torch.testing.assert_close(both.logits, (one.logits + mirrored) / 2)
    assert again == plain != flipped


def check_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = device.Hardware(torch.device("cuda"), "none", "fp32", 1)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)  # there is no GPU to make the current one
    for asked in (False, True):
        with device.arithmetic(hardware, asked):
            assert torch.are_deterministic_algorithms_enabled() == asked
            assert torch.backends.cudnn.benchmark != asked
    assert not torch.are_deterministic_algorithms_enabled()


def check_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def compile_network(network: nn.Module, dynamic: bool) -> nn.Module:
        compiled.append(network)
        return network

    monkeypatch.setattr(torch, "compile", compile_network)
    for asked in (False, True):
        training = Trace({"train.compile": asked}, 1, monkeypatch).training
    assert compiled == [training.model]
    Trace({"train.compile": "auto"}, 1, monkeypatch)  # never on a CPU
    assert compiled == [training.model]


def check_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.errors import InputError
    from harness.training.guard import check_budget

    count = cost(experiment_from_dict(PLAIN)).trainable_parameters
    for limit, held in ((None, True), (count, True), (count - 1, False)):
        spec = experiment_from_dict(apply_overrides(PLAIN, {"guard.max_parameters": limit}))
        if held:
            check_budget([spec])
        else:
            with pytest.raises(InputError):
                check_budget([spec])


ELSEWHERE: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "seed": check_seed,
    "data.dataset": check_dataset,
    "data.protocol": check_protocol,
    "train.early_stopping.monitor": check_monitor,
    "train.deterministic": check_deterministic,
    "train.compile": check_compile,
    "evaluation.flip_tta": check_flip_tta,
    "guard.max_parameters": check_guard,
}


@pytest.mark.parametrize("path", ELSEWHERE)
def test_it_acts_elsewhere(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ELSEWHERE[path](monkeypatch)


# --- completeness ---

# Change no training by themselves: names, paths, and what is written down of the data or of a teacher to be held
# against what is really there (tests/spec/test_surroundings.py, tests/spec/test_folders.py, tests/test_teacher.py).
INERT = {
    "name",
    "notes",
    "data.folder",
    "data.folder.path",
    "data.folder.size",
    "data.folder.content",
    "data.folder.content.image_shape",
    "data.folder.content.class_names",
    "data.folder.content.train_images",
    "data.folder.content.held_out",
    "data.folder.content.test_images",
    "data.folder.content.digest",
    "loss.distill.teacher_digest",
}


def all_fields() -> set[tuple[str, str | None]]:
    """Every leaf and every toggle, once for each kind that has it; a kind itself where it is not the neutral one."""
    found: set[tuple[str, str | None]] = set()
    models = {path: submodels(info.annotation) for path, info in field_paths(ExperimentSpec).items()}
    unions = {path: kinds for path, kinds in models.items() if len(kinds) > 1}
    for path in leaf_paths(ExperimentSpec):
        union = next((union for union in unions if path.startswith(f"{union}.")), None)
        if union is None:
            found.add((path, None))
            continue
        for model in unions[union]:
            kind_field = model.model_fields["kind"]
            kind = get_args(kind_field.annotation)[0]
            name = path.removeprefix(f"{union}.")
            if name in model.model_fields and (name != "kind" or kind_field.is_required()):
                found.add((path, kind))
    toggles = {p for p, i in field_paths(ExperimentSpec).items() if submodels(i.annotation) and i.default is None}
    return found | {(path, None) for path in toggles}


def test_every_field_has_a_row() -> None:
    rows = {(row.field, row.kind) for row in TABLE} | {(path, None) for path in (*ELSEWHERE, *INERT)}
    assert all_fields() - rows == set(), "a field without a row in TABLE: show what it changes"
    assert rows - all_fields() == set(), "a row for a field that is not there"


def test_a_field_without_a_row_is_noticed() -> None:
    assert ("augment.cutmix.alpha", None) in all_fields()
    assert {("optim.schedule.min_lr", kind) for kind in ("cosine", "cyclic", "plateau")} <= all_fields()
    assert ("optim.schedule.kind", "constant") not in all_fields()
    assert ("loss.distill", None) in all_fields()


def test_the_traces_are_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a difference would prove nothing."""
    everything = {"augment": {"crop": True, "flip": True, "cutmix": True}, "model.dropout": 0.2, **DISTILL}
    everything["augment"]["crop"] = {"padding": 1}  # type: ignore[index]
    one, again = (Trace(everything, 2, monkeypatch) for _ in range(2))
    assert not differences(one, again)
    assert not weights_differ(one, again)
    assert statistics.mean(lr(one)) == 0.1
