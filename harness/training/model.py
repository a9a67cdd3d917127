"""The modified ResNet of the reference system, any depths, widths, image size and number of classes.

Submodules carry the same names whatever is switched on, so that arms share initial weights by name.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.spec.experiment import ExperimentSpec
from harness.spec.model import Model
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


def convolution(channels_in: int, channels: int, kernel_size: int, stride: int, spec: Model) -> nn.Conv2d:
    """Padded by kernel_size // 2, so that only the stride changes the resolution; a bias where there are no norms."""
    return nn.Conv2d(channels_in, channels, kernel_size, stride, kernel_size // 2, bias=spec.norm == "none")


def norm(channels: int, spec: Model) -> nn.BatchNorm2d | nn.Identity:
    """Batch normalisation, or what stands in its place."""
    return nn.Identity() if spec.norm == "none" else nn.BatchNorm2d(channels)


def block_gates(channels: int, spec: Model) -> SqueezeExcitation | None:
    """SE of one block, where the spec puts it there."""
    if spec.se and spec.se.placement == "block":
        return SqueezeExcitation(channels, spec.se.reduction)
    return None


def convolve(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution that may have a stride, [N, C, H, W] to [N, C', H/stride, W/stride].

    Where its kernel is 1x1 few channels have their pixels picked first: for fewer than 16 (on AVX2, 8) and a stride
    oneDNN writes over memory that is not its own in the backward pass (uxlfoundation/oneDNN#6035), which ended runs.
    """
    if convolution.kernel_size != (1, 1) or convolution.stride == (1, 1) or convolution.in_channels >= 16:
        out: Tensor = convolution(x)
        return out
    rows, columns = convolution.stride
    return F.conv2d(x[:, :, ::rows, ::columns], convolution.weight, convolution.bias)


def add_shortcut(residual: Tensor, shortcut: Tensor | None, kept: Tensor | None) -> Tensor:
    """residual * kept + shortcut, [N, C, H, W], `kept` [N]; None leaves its operation out."""
    if kept is not None:
        # In bf16 the product stays bf16, as torchvision.ops.stochastic_depth has it.
        residual = residual * kept.to(residual.dtype)[:, None, None, None]
    return residual if shortcut is None else residual + shortcut


class BasicBlock(nn.Module):
    """conv, norm, ReLU, conv, norm, (SE), + shortcut, ReLU, (dropout): He et al. 2015, arXiv 1512.03385.

    The shortcut is a 1x1 convolution with norm where the shape changes, else the identity. SE gates the
    residual before the addition, as in the SE paper.

    `forward` maps [N, C, H, W] to [N, C', H/stride, W/stride]; `kept` [N] multiplies each image's
    residual (stochastic depth; None: all kept).
    """

    def __init__(self, channels_in: int, channels: int, kernel_size: int, stride: int, spec: Model):
        super().__init__()
        self.conv1 = convolution(channels_in, channels, kernel_size, stride, spec)
        self.norm1 = norm(channels, spec)
        self.conv2 = convolution(channels, channels, kernel_size, 1, spec)
        self.norm2 = norm(channels, spec)
        self.has_shortcut = spec.shortcut != "none"
        self.project: nn.Conv2d | None = None
        if self.has_shortcut and (stride != 1 or channels_in != channels):
            self.project = convolution(channels_in, channels, 1, stride, spec)
            self.project_norm = norm(channels, spec)
        self.se = block_gates(channels, spec)
        self.dropout = spec.dropout
        self.zero_init = spec.zero_init

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        residual = F.relu(self.norm1(convolve(self.conv1, x)), inplace=True)
        residual = self.norm2(self.conv2(residual))
        if self.se:
            residual = self.se(residual)
        out = F.relu(add_shortcut(residual, self._shortcut(x), kept), inplace=True)
        if self.dropout:
            out = F.dropout(out, self.dropout, self.training)
        return out

    def _shortcut(self, x: Tensor) -> Tensor | None:
        if not self.has_shortcut:
            return None
        return self.project_norm(convolve(self.project, x)) if self.project else x


class PreactivationBlock(nn.Module):
    """norm, ReLU, conv, norm, ReLU, (dropout), conv, (SE), + shortcut: He et al. 2016, arXiv 1603.05027.

    Where the shape changes the shortcut is a 1x1 convolution, without norm, of the input after the first
    norm and ReLU; else it is the input itself, in the first block too (where the paper takes the stem's
    output after norm and ReLU). Dropout stands where wide ResNets have it (arXiv 1605.07146).

    `forward` as of `BasicBlock`.
    """

    def __init__(self, channels_in: int, channels: int, kernel_size: int, stride: int, spec: Model):
        super().__init__()
        self.norm1 = norm(channels_in, spec)
        self.conv1 = convolution(channels_in, channels, kernel_size, stride, spec)
        self.norm2 = norm(channels, spec)
        self.conv2 = convolution(channels, channels, kernel_size, 1, spec)
        self.has_shortcut = spec.shortcut != "none"
        self.project: nn.Conv2d | None = None
        if self.has_shortcut and (stride != 1 or channels_in != channels):
            self.project = convolution(channels_in, channels, 1, stride, spec)
        self.se = block_gates(channels, spec)
        self.dropout = spec.dropout

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        activated = F.relu(self.norm1(x))  # not in place: without norms this is x itself, which the shortcut needs
        residual = F.relu(self.norm2(convolve(self.conv1, activated)), inplace=True)
        if self.dropout:
            residual = F.dropout(residual, self.dropout, self.training)
        residual = self.conv2(residual)
        if self.se:
            residual = self.se(residual)
        return add_shortcut(residual, self._shortcut(x, activated), kept)

    def _shortcut(self, x: Tensor, activated: Tensor) -> Tensor | None:
        if not self.has_shortcut:
            return None
        return convolve(self.project, activated) if self.project else x


BLOCKS = {"basic": BasicBlock, "preactivation": PreactivationBlock}


class ResNet(nn.Module):
    """Stem, (SE), groups of residual blocks, average pool, (dropout), linear classifier.

    Around basic blocks the stem is a convolution with norm and ReLU. Around pre-activation blocks it is
    the convolution alone, and norm and ReLU follow the last block.

    Args:
        spec: depths, widths and toggles.
        channels: image channels.
        classes: number of classes.
    """

    def __init__(self, spec: Model, channels: int, classes: int):
        super().__init__()
        width = spec.widths[0]
        preactivation = spec.block == "preactivation"
        self.stem = convolution(channels, width, 3, 1, spec)
        self.stem_norm = None if preactivation else norm(width, spec)
        self.se: SqueezeExcitation | None = None
        if spec.se and spec.se.placement == "stem":
            self.se = SqueezeExcitation(width, spec.se.reduction)
        self.groups = _groups(spec)
        self.head_norm = norm(spec.widths[-1], spec) if preactivation else None
        self.dropout = spec.dropout
        self.classifier = nn.Linear(spec.widths[-1], classes)

    @property
    def blocks(self) -> list[nn.Module]:
        """The residual blocks in the order of the forward pass."""
        return [block for group in self.groups for block in group.children()]

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Logits [N, classes] of normalised images [N, channels, H, W].

        `kept`, float [N, blocks], multiplies each image's residual in each block (`draw_kept`); None, as
        in evaluation, keeps all.
        """
        x = self.stem(x)
        if self.stem_norm:
            x = F.relu(self.stem_norm(x), inplace=True)
        if self.se:
            x = self.se(x)
        for place, block in enumerate(self.blocks):
            x = block(x, None if kept is None else kept[:, place])
        if self.head_norm:
            x = F.relu(self.head_norm(x), inplace=True)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        logits: Tensor = self.classifier(x)
        return logits


def _groups(spec: Model) -> nn.ModuleList:
    """The residual blocks, one `nn.Sequential` per group; each group after the first begins with stride 2."""
    make_block = BLOCKS[spec.block]
    groups = nn.ModuleList()
    channels_in = spec.widths[0]
    for group, (depth, width, kernel_size) in enumerate(zip(spec.depths, spec.widths, spec.kernel_sizes, strict=True)):
        blocks = nn.Sequential()
        for block in range(depth):
            stride = 2 if group > 0 and block == 0 else 1
            blocks.append(make_block(channels_in, width, kernel_size, stride, spec))
            channels_in = width
        groups.append(blocks)
    return groups


def draw_kept(model: Model, seed: int, epoch: int, images: int, device: torch.device) -> Tensor | None:
    """Stochastic depth's draws of one epoch (Huang et al. 2016, arXiv 1603.09382), the `kept` of `ResNet.forward`.

    Block l of L (from 1) is left out with probability l / L * stochastic_depth, each image by itself. Where
    the paper multiplies by the survival probability in evaluation, this divides by it in training, as
    torchvision.ops.stochastic_depth (mode "row") does: the expectation is the same and evaluation is unchanged.

    Returns:
        float [images, blocks], 0 where the residual is left out, 1 / survival probability where it is
        kept; None where the toggle is off.
    """
    if not model.stochastic_depth:
        return None
    names = [f"groups.{group}.{block}" for group, depth in enumerate(model.depths) for block in range(depth)]
    columns = []
    for place, name in enumerate(names, start=1):
        survival = 1 - place / len(names) * model.stochastic_depth
        drawn = torch.rand(images, generator=draws.generator(seed, "stochastic-depth", epoch, name))
        columns.append((drawn < survival) / survival)
    return torch.stack(columns, dim=1).to(device)


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
    zero_last_norms(model)


def zero_last_norms(model: nn.Module) -> None:
    """The scale of the last norm of each basic block that asks for it: 0 (arXiv 1706.02677, section 5.1)."""
    for block in model.modules():
        if isinstance(block, BasicBlock) and block.zero_init and isinstance(block.norm2, nn.BatchNorm2d):
            nn.init.zeros_(block.norm2.weight)
