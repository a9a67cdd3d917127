"""The modified ResNet of the reference system, any depths, widths, image size and number of classes.

Submodules carry the same names whatever is switched on, so that arms share initial weights by name.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.spec.experiment import ExperimentSpec, Model
from harness.training import draws


class SqueezeExcitation(nn.Module):
    """Channel gates (arXiv 1709.01507): x * sigmoid(fc2(relu(fc1(mean over pixels of x)))), [N, C, H, W] -> same."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        hidden = channels // reduction
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(gates)


class BasicBlock(nn.Module):
    """conv3x3, BN, ReLU, conv3x3, BN, (SE), + shortcut, ReLU, dropout; [N, C, H, W] -> [N, C', H/stride, W/stride].

    The shortcut is a 1x1 convolution with BN where the shape changes, else the identity. SE in a
    block gates the residual before the addition, as in the SE paper.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, spec: Model):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.project: nn.Conv2d | None = None
        if stride != 1 or channels_in != channels:
            self.project = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.project_norm = nn.BatchNorm2d(channels)
        self.se: SqueezeExcitation | None = None
        if spec.se and spec.se.placement == "block":
            self.se = SqueezeExcitation(channels, spec.se.reduction)
        self.dropout = spec.dropout

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        if self.se:
            out = self.se(out)
        shortcut = self.project_norm(self.project(x)) if self.project else x
        out = F.relu(out + shortcut, inplace=True)
        if self.dropout:
            out = F.dropout(out, self.dropout, self.training)
        return out


class ResNet(nn.Module):
    """Stem, (SE), groups of basic blocks, average pool, (dropout), linear classifier.

    Args:
        spec: depths, widths and toggles.
        channels: image channels.
        classes: number of classes.

    `forward` maps normalised images [N, channels, H, W] to logits [N, classes].
    """

    def __init__(self, spec: Model, channels: int, classes: int):
        super().__init__()
        widths = spec.widths
        self.stem = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.se: SqueezeExcitation | None = None
        if spec.se and spec.se.placement == "stem":
            self.se = SqueezeExcitation(widths[0], spec.se.reduction)
        self.groups = nn.ModuleList()
        channels_in = widths[0]
        for group, (depth, width) in enumerate(zip(spec.depths, widths, strict=True)):
            blocks = nn.Sequential()
            for block in range(depth):
                stride = 2 if group > 0 and block == 0 else 1
                blocks.append(BasicBlock(channels_in, width, stride, spec))
                channels_in = width
            self.groups.append(blocks)
        self.dropout = spec.dropout
        self.classifier = nn.Linear(channels_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)), inplace=True)
        if self.se:
            x = self.se(x)
        for group in self.groups:
            x = group(x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        logits: Tensor = self.classifier(x)
        return logits


def build_model(spec: ExperimentSpec, device: torch.device | str = "meta") -> ResNet:
    """The network of `spec` on `device`; weights are not yet drawn (see `initialise`)."""
    with torch.device(device):
        return ResNet(spec.model, spec.dataset.image_shape[0], spec.dataset.classes)


def initialise(model: nn.Module, seed: int) -> None:
    """Draw initial weights, each parameter from its own generator (seed, name), whatever device it is on.

    The distributions are torch's defaults, which the reference system used: convolutions and linear
    layers, weight and bias, uniform in +-1/sqrt(fan_in); batch norm 1 and 0, running statistics fresh.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for kind, parameter in module.named_parameters(recurse=False):
                drawn = torch.empty(parameter.shape, device="cpu")
                drawn.uniform_(-bound, bound, generator=draws.generator(seed, "init", f"{name}.{kind}"))
                with torch.no_grad():
                    parameter.copy_(drawn)
