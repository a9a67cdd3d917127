"""Methods that meet: each pair's one meaning, as the README tells it."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import InputError
from harness.spec.composition import apply_overrides
from harness.spec.documents import experiment_from_dict
from harness.spec.loss import Distill, Loss
from harness.training import loop, optim
from harness.training.augment import draw_epoch
from harness.training.loop import Training
from harness.training.loss import distillation, mixed_cross_entropy, objective
from harness.training.mixing import MixedBatch
from harness.training.model import build_model, initialise
from tests.training.build import CPU, Recorder, make_spec, make_split


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def soft() -> Tensor:
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(1)) * 3


LABELS = torch.tensor([0, 1, 2, 3, 4, 5])
MIX = MixedBatch(torch.tensor([5, 4, 3, 2, 1, 0]), None, 0.7)

# --- losses against their formulas ---


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing(logits: Tensor, smoothing: float) -> None:
    log_p = logits.log_softmax(1)
    target = (1 - smoothing) * F.one_hot(LABELS, 10) + smoothing / 10
    expected = -(target * log_p).sum(1).mean()
    torch.testing.assert_close(objective(Loss(label_smoothing=smoothing), logits, LABELS, None, None), expected)


def test_label_smoothing_of_mixed_labels(logits: Tensor) -> None:
    mixed = 0.7 * F.one_hot(LABELS, 10) + 0.3 * F.one_hot(LABELS[MIX.partner], 10)
    expected = -((0.9 * mixed + 0.1 / 10) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(objective(Loss(label_smoothing=0.1), logits, LABELS, MIX, None), expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_distillation(logits: Tensor, soft: Tensor, temperature: float, weight: float) -> None:
    p, q = F.softmax(soft / temperature, 1), F.softmax(logits / temperature, 1)
    kl = (p * (p.log() - q.log())).sum(1).mean()
    distill = Distill(teacher="t", temperature=temperature, weight=weight)
    torch.testing.assert_close(distillation(distill, logits, soft), weight * temperature**2 * kl)
    hard = -logits.log_softmax(1)[torch.arange(6), LABELS].mean()
    loss = objective(Loss(distill=distill), logits, LABELS, None, soft)
    torch.testing.assert_close(loss, (1 - weight) * hard + weight * temperature**2 * kl)


def test_smoothing_concerns_the_labels_and_not_the_teacher(logits: Tensor, soft: Tensor) -> None:
    distill = Distill(teacher="t", weight=0.5)
    loss = objective(Loss(label_smoothing=0.2, distill=distill), logits, LABELS, MIX, soft)
    hard = mixed_cross_entropy(logits, LABELS, MIX, 0.2)
    torch.testing.assert_close(loss, 0.5 * hard + distillation(distill, logits, soft))


def test_the_gradient_keeps_its_size_with_the_temperature(soft: Tensor) -> None:
    """What the factor T squared is for: for high temperatures the gradient no longer depends on T."""
    sizes = []
    for temperature in (50.0, 100.0):
        student = torch.zeros(6, 10, requires_grad=True)
        distillation(Distill(teacher="t", temperature=temperature, weight=1.0), student, soft).backward()
        assert student.grad is not None
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_no_soft_targets_is_an_error_and_not_plain_training(logits: Tensor) -> None:
    with pytest.raises(AssertionError):
        objective(Loss(distill=Distill(teacher="t")), logits, LABELS, None, None)
    spec = make_spec(loss={"distill": {"teacher": "t.pt"}})
    with pytest.raises(ValueError, match="none was given"):
        Training(spec, 0, make_split(), CPU).fit(Recorder())


# --- methods that meet ---


def test_the_teacher_sees_what_the_student_sees() -> None:
    """Distillation + CutMix: the mixed images, and it stays as it is."""
    spec = make_spec(
        augment={"cutmix": {"probability": 1.0}, "crop": {"padding": 1}}, loss={"distill": {"teacher": "t.pt"}}
    )
    teacher = build_model(spec, "cpu")
    initialise(teacher, 9)
    teacher.eval()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    seen: dict[str, list[Tensor]] = {"student": [], "teacher": []}
    training = Training(spec, 0, make_split(), CPU, teacher)
    for name, network in (("student", training.model), ("teacher", teacher)):
        network.register_forward_pre_hook(
            lambda module, inputs, name=name: (
                seen[name].append(inputs[0].clone()) if module.training or name == "teacher" else None
            )
        )
    training.fit(Recorder())
    assert len(seen["student"]) == len(seen["teacher"]) == 6
    assert all(torch.equal(one, other) for one, other in zip(seen["student"], seen["teacher"], strict=True))
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_a_batch_is_cut_or_mixed_up_never_both() -> None:
    both = {"cutmix": {"probability": 0.5}, "mixup": {"probability": 0.5}}
    spec = make_spec(augment=both, train={"batch_size": 2, "epochs": 2})
    drawn = draw_epoch(spec, 0, 1, 4000, CPU.device)
    mixes = [drawn.mix(step) for step in range(2000)]
    cut = sum(mix is not None and mix.box is not None for mix in mixes) / 2000
    mixed_up = sum(mix is not None and mix.box is None for mix in mixes) / 2000
    assert cut == pytest.approx(0.5, abs=0.04)
    assert mixed_up == pytest.approx(0.25, abs=0.04)  # half of what CutMix leaves


def test_the_average_follows_the_weights_after_lookahead() -> None:
    """EMA + Lookahead: step, synchronise, average; replayed here from the weights after each step."""
    spec = make_spec(optim={"lookahead": {"k": 2}, "ema": {"decay": 0.8}})
    training = Training(spec, 0, make_split(), CPU)
    held: list[Tensor] = []
    listener = Recorder()
    listener.step_done = lambda *at: held.append(training.model.stem.weight.detach().clone())  # type: ignore[method-assign]
    training.fit(listener)
    average = held[0]
    for weight in held[1:]:
        average = 0.8 * average + 0.2 * weight
    torch.testing.assert_close(training.evaluated.stem.weight, average)
    assert training.lookahead is not None
    assert torch.equal(training.lookahead.slow[0], held[-1])  # 6 steps: just synchronised


def test_what_is_told_and_kept_is_the_average() -> None:
    spec = make_spec(optim={"ema": {"decay": 0.5}}, train={"epochs": 3, "batch_size": 32, "precision": "fp32"})
    training = Training(spec, 0, make_split(), CPU)
    listener = Recorder()
    training.fit(listener)
    assert training.split.validation is not None
    told = listener.rows[-1]["val_loss"]
    losses = {}
    for name, network in (("average", training.evaluated), ("model", training.model)):
        losses[name] = loop.evaluate(network, training.split.validation, training.normalise, CPU).loss
    assert told == losses["average"] != losses["model"]
    assert isinstance(training.average, optim.Average)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"augment.cutmix": {"probability": 1.0}, "augment.mixup": {}}, "never acts"),
        ({"augment.cutmix": {"probability": 2.0}}, "at most 1"),
        ({"augment.cutmix": {"probability": 0.0}}, "to switch it off"),
        ({"augment.mixup": {"probability": 0.0}}, "to switch it off"),
        ({"model.stochastic_depth": 0.5, "model.shortcut": "none"}, "needs a shortcut"),
        ({"model.zero_init": True, "model.norm": "none"}, "needs basic blocks"),
        ({"model.zero_init": True, "model.block": "preactivation"}, "needs basic blocks"),
        ({"model.zero_init": True, "model.shortcut": "none"}, "needs basic blocks"),
        ({"model.kernel_size": 4}, "is even"),
        ({"model.kernel_size": [3, 2]}, "is even"),
        ({"model.kernel_size": [3, 3, 3]}, "one kernel size per group"),
        ({"model.depths": [1] * 5}, "below one pixel"),
        ({"model.se": {"reduction": 9}}, "larger than the 8 channels"),
        ({"optim.warmup": {"epochs": 2}}, "leaves nothing"),
        ({"optim.warmup": {"epochs": 3}}, "leaves nothing"),
        ({"optim.schedule": {"kind": "multi_step", "milestones": [2]}}, "never acts"),
        ({"optim.schedule": {"kind": "multi_step", "milestones": [1, 1]}}, "later than the one before"),
        (
            {"optim.schedule": {"kind": "multi_step", "milestones": [1]}, "optim.warmup": {"epochs": 1}},
            "not later than",
        ),
        ({"optim.schedule": {"kind": "cyclic", "min_lr": 0.2}}, "not below the learning rate"),
        ({"optim.schedule": {"kind": "cyclic", "min_lr": 0.0}, "optim.warmup": {"epochs": 1}}, "from 0 to 0"),
        ({"optim.schedule": {"kind": "cyclic", "min_lr": 0.01, "gamma": 0.5}}, "only mode exp_range"),
        ({"optim.schedule": {"kind": "plateau"}, "data.protocol": "full"}, "no validation set"),
        ({"train.early_stopping": {"patience": 1}, "data.protocol": "full"}, "no validation set"),
        ({"optim.schedule": {"kind": "one_cycle", "peak_at": 0.01}}, "no step to rise in"),
        ({"optim.optimizer.betas": [0.9, 0.99]}, "another `kind` has it"),
        ({"optim.schedule": {"kind": "cyclic", "min_lr": 0.01, "half_cycle": 10**9}}, "does not end"),
        ({"optim.schedule": "cosine"}, "write {kind: cosine}"),
        ({"optim.optimizer": "adamw"}, "write {kind: adamw}"),
        ({"loss": {"label_smoothing": 0.1, "distill": {"teacher": "t.pt", "weight": 1.0}}}, "never acts"),
        ({"data.protocol": "holdout", "train.batch_size": 1400}, "larger than the 1295 training images"),
        ({"augment.scaling": {"low": 1.3}}, "larger than `high`"),
        ({"augment.scaling": {"low": 1.0, "high": 1.0}}, "never acts"),
        ({"augment.cutout": {"size": 9}}, "larger than the 8-pixel image"),
        ({"augment.rotation": {"degrees": 0.0}}, "above 0"),
        ({"optim.ema": {"decay": 1.0}}, "below 1"),
        ({"loss.label_smoothing": 1.0}, "below 1"),
    ],
    ids=str,
)
def test_what_can_not_be_is_told(overrides: dict, message: str) -> None:
    tree = make_spec(train={"batch_size": 100}).model_dump(mode="json")
    with pytest.raises(InputError, match=re.escape(message)):
        experiment_from_dict(apply_overrides(tree, overrides))
