"""What the engine is held against: a plain training loop as most people write it, and the best step written by hand.

Both take the engine's own draws (order, crops, flips, CutMix), so that all three see the same images in the same
batches and their losses can be compared. They know the published recipe alone: crop, flip, CutMix, SGD, Lookahead,
clipping of the global norm.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as transforms

from harness.spec.experiment import ExperimentSpec
from harness.training import augment, draws
from harness.training.augment import EpochDraws
from harness.training.data import Images, Split
from harness.training.device import Hardware, autocast
from harness.training.loop import Row, State
from harness.training.mixing import MixedBatch
from harness.training.model import build_model, initialise

# --- the plain loop ------------------------------------------------------------------------------


class PillowImages(Dataset[tuple[Tensor, int]]):
    """CIFAR-10 as torchvision gives it, with its transforms, each image's crop and flip as the engine drew them."""

    def __init__(self, images: Images, drawn: EpochDraws, spec: ExperimentSpec):
        assert spec.augment.crop
        assert drawn.offsets is not None
        assert drawn.mirrored is not None
        self.data, self.targets = images.pixels.numpy(), images.labels.tolist()
        self.offsets, self.mirrored = drawn.offsets.tolist(), drawn.mirrored.tolist()
        self.padding = spec.augment.crop.padding
        self.mean, self.std = spec.dataset.mean, spec.dataset.std

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.data[index])
        row, column = self.offsets[index]
        height, width = self.data.shape[1:3]
        image = transforms.crop(transforms.pad(image, self.padding), row, column, height, width)
        if self.mirrored[index]:
            image = transforms.hflip(image)
        tensor = transforms.normalize(transforms.to_tensor(image), self.mean, self.std)
        return tensor, self.targets[index]


def pillow_loader(images: Images, drawn: EpochDraws, spec: ExperimentSpec) -> DataLoader[tuple[Tensor, Tensor]]:
    """One process, as the authors' notebook has it: on two cores workers would take the network's."""
    return DataLoader(
        PillowImages(images, drawn, spec),
        batch_size=spec.train.batch_size,
        sampler=drawn.order.tolist(),
        num_workers=0,
    )


def mix_plainly(images: Tensor, labels: Tensor, mix: MixedBatch | None) -> tuple[Tensor, Tensor, float]:
    """CutMix as its authors' code has it; images, the partners' labels, the share of the own ones."""
    if mix is None or mix.box is None:
        return images, labels, 1.0
    top, bottom, left, right = mix.box
    images = images.clone()
    images[:, :, top:bottom, left:right] = images[mix.partner][:, :, top:bottom, left:right]
    return images, labels[mix.partner], mix.kept


class PlainLookahead:
    """Lookahead as the wrappers in circulation have it: a Python loop over parameters."""

    def __init__(self, parameters: list[nn.Parameter], k: int, alpha: float):
        self.parameters, self.k, self.alpha, self.steps = parameters, k, alpha, 0
        self.slow = [p.detach().clone() for p in parameters]

    def step(self) -> None:
        self.steps += 1
        if self.steps % self.k == 0:
            for slow, fast in zip(self.slow, self.parameters, strict=True):
                slow += self.alpha * (fast.detach() - slow)
                fast.data.copy_(slow)


class PlainLoop:
    """fp32, default memory format, Pillow transforms in a DataLoader, SGD as it comes, `.item()` every step."""

    def __init__(self, spec: ExperimentSpec, split: Split, hardware: Hardware, seed: int = 0):
        self.spec, self.device, self.train, self.seed = spec, hardware.device, split.train, seed
        self.model: nn.Module = build_model(spec, "cpu")
        initialise(self.model, seed)
        self.model.to(self.device).train()
        sgd, ahead = spec.optim.optimizer, spec.optim.lookahead
        assert sgd.kind == "sgd"
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(parameters, lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
        self.lookahead = PlainLookahead(parameters, ahead.k, ahead.alpha) if ahead else None
        self.correct = 0

    def epoch(self, number: int = 1) -> Iterator[float]:
        """The losses of epoch `number`, one a step."""
        drawn = augment.draw_epoch(self.spec, self.seed, number, len(self.train), torch.device("cpu"))
        for step, (images, labels) in enumerate(pillow_loader(self.train, drawn, self.spec)):
            draws.seed_step(self.seed, number, step, self.device)
            yield self.step(images.to(self.device), labels.to(self.device), drawn.mix(step))

    def step(self, images: Tensor, labels: Tensor, mix: MixedBatch | None) -> float:
        images, partners, kept = mix_plainly(images, labels, mix)
        logits = self.model(images)
        loss = kept * F.cross_entropy(logits, labels) + (1 - kept) * F.cross_entropy(logits, partners)
        self.optimizer.zero_grad()
        loss.backward()
        if self.spec.optim.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.optim.clip.value)
        self.optimizer.step()
        if self.lookahead:
            self.lookahead.step()
        self.correct += int((logits.argmax(1) == labels).sum().item())
        return loss.item()


# --- the best step by hand -----------------------------------------------------------------------


class HandWritten:
    """The shortest step that trains the same: resident uint8 images, channels_last, autocast, fused SGD, no `.item()`.

    Its pipeline is the engine's own; everything else is written out.
    """

    def __init__(self, spec: ExperimentSpec, split: Split, hardware: Hardware, seed: int = 0):
        self.spec, self.hardware, self.train, self.seed = spec, hardware, split.train, seed
        self.model = build_model(spec, hardware.device)
        initialise(self.model, seed)
        self.model.to(memory_format=torch.channels_last).train()
        sgd, ahead = spec.optim.optimizer, spec.optim.lookahead
        assert sgd.kind == "sgd"
        assert ahead
        assert spec.optim.clip
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay, fused=True
        )
        self.k, self.alpha, self.max_norm = ahead.k, ahead.alpha, spec.optim.clip.value
        self.slow: list[Tensor] = [p.detach().clone() for p in self.parameters]
        self.steps = 0
        normalise = augment.Normaliser.of(spec.dataset.mean, spec.dataset.std, hardware.device)
        self.batches = augment.Batches(spec, split.train, normalise)

    def epoch(self, number: int = 1) -> Iterator[Tensor]:
        """The losses of epoch `number`, one a step, still on the device."""
        drawn = augment.draw_epoch(self.spec, self.seed, number, len(self.train), self.hardware.device)
        batches = self.batches.epoch(drawn)
        for step in range(-(-len(self.train) // self.spec.train.batch_size)):
            batch = batches(step)
            partners, kept = batch.labels, 1.0
            if batch.mix:
                partners, kept = batch.labels[batch.mix.partner], batch.mix.kept
            yield self.train_on(batch.images, batch.labels, partners, kept)

    def train_on(self, images: Tensor, labels: Tensor, partners: Tensor, kept: float) -> Tensor:
        """One step; its loss."""
        with autocast(self.hardware):
            logits = self.model(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels)
        if kept < 1:
            loss = kept * loss + (1 - kept) * F.cross_entropy(logits, partners)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self.optimizer.step()
        self.steps += 1
        if self.steps % self.k == 0:
            with torch.no_grad():
                torch._foreach_lerp_(self.slow, self.parameters, self.alpha)
                torch._foreach_copy_(self.parameters, self.slow)
        return loss.detach()


# --- the engine ----------------------------------------------------------------------------------


class Listening:
    """The engine's listener that keeps no state, notes steps and rows, and asks to stop after so many steps."""

    def __init__(self, steps: int | None = None):
        self.steps = steps
        self.times: list[float] = []
        self.rows: list[Row] = []

    def step_done(self, epoch: int, step: int, steps: int) -> None:
        self.times.append(time.perf_counter())

    def epoch_done(self, row: Row, state: State) -> None:
        self.rows.append(row)

    def wants_save(self) -> bool:
        return False

    def save(self, state: State) -> None:
        """Nothing is kept."""

    def stop_asked(self) -> bool:
        return self.steps is not None and len(self.times) >= self.steps
