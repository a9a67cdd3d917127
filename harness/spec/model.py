"""`model:` of an experiment file: the network's architecture."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from harness.spec.base import SWITCH, ConflictError, PositiveInt, Spec


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"a kernel size of {value} is even: it has no middle; take {value - 1} or {value + 1}")
    return value


# Bounds far beyond any budget, so that counting a mistyped network can neither overflow nor take minutes.
MAX_WIDTH = 65_536
MAX_KERNEL_SIZE = 31
Depth = Annotated[int, Field(gt=0, le=256)]
Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
KernelSize = Annotated[int, Field(gt=0, le=MAX_KERNEL_SIZE), AfterValidator(_odd)]


class SqueezeExcitation(Spec):
    """Squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507): channel gates from pooled features.

    Two 1x1 convolutions with biases and a ReLU between them; channels // reduction hidden units.
    """

    placement: Literal["stem", "block"] = "stem"
    """`stem`: one after the stem, as in the reference system; `block`: one in every residual block."""
    reduction: PositiveInt = 16
    """Channels per hidden unit; at most the channel count it is applied to."""


class Model(Spec):
    """The modified ResNet: stem, groups of residual blocks, average pool, linear classifier."""

    depths: Annotated[tuple[Depth, ...], Field(min_length=1, max_length=8)]
    """Residual blocks per group, e.g. [4, 4, 3]; every group after the first halves the resolution."""
    width: Width | tuple[Width, ...]
    """Channels of the first group, doubled in each later one; or one number per group."""
    kernel_size: KernelSize | tuple[KernelSize, ...] = 3
    """Side of the convolutions in the blocks, pixels, odd; one number, or one per group. The stem's is always 3.
    Neutral: 3."""
    block: Literal["basic", "preactivation"] = "basic"
    """`basic`: conv, norm, ReLU, conv, norm, add shortcut, ReLU (He et al. 2015); `preactivation`: norm and ReLU
    before each convolution, and once more after the last block (He et al. 2016, arXiv 1603.05027). Neutral: basic."""
    norm: Literal["batch", "none"] = "batch"
    """`batch`: batch normalisation after the convolutions (before them in pre-activation blocks); `none`: no
    normalisation, a bias in each convolution instead. Neutral: batch."""
    shortcut: Literal["projection", "none"] = "projection"
    """`projection`: identity, or a 1x1 convolution where the shape changes; `none`: blocks without a shortcut.
    Neutral: projection."""
    se: Annotated[SqueezeExcitation | None, SWITCH] = None
    """Squeeze-and-excitation; `true` means placement stem, reduction 16. Off: null or false."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability of zeroing a feature, after every basic block (in a pre-activation block between its
    convolutions, as in wide ResNets) and before the classifier. Off: 0."""
    stochastic_depth: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability of leaving out the last block's residual branch, each image its own draw; earlier blocks in
    proportion to their place (Huang et al. 2016, arXiv 1603.09382). Off: 0."""

    zero_init: bool = False
    """Begin with 0 as the scale of each basic block's last norm, so that every block begins as its shortcut (Goyal et
    al. 2017, arXiv 1706.02677, section 5.1). Off: false."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels per group, written out."""
        if isinstance(self.width, tuple):
            return self.width
        return tuple(self.width * 2**group for group in range(len(self.depths)))

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """Kernel sizes per group, written out."""
        return self.kernel_size if isinstance(self.kernel_size, tuple) else (self.kernel_size,) * len(self.depths)

    @property
    def squeezed_channels(self) -> int:
        """The fewest channels that a squeeze-and-excitation acts on, were there one: those of the stem by default."""
        return min(self.widths) if self.se and self.se.placement == "block" else self.widths[0]

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes = []
        groups = f"for {len(self.depths)} groups: give one"
        if len(self.widths) != len(self.depths):
            mistakes.append(("width", f"{list(self.widths)} {groups} width per group, or one number"))
        if len(self.kernel_sizes) != len(self.depths):
            mistakes.append(("kernel_size", f"{list(self.kernel_sizes)} {groups} kernel size per group, or one number"))
        if self.se is not None and self.widths and self.se.reduction > self.squeezed_channels:
            what = f"{self.se.reduction} is larger than the {self.squeezed_channels} channels it acts on"
            mistakes.append(("se.reduction", what))
        if self.stochastic_depth and self.shortcut == "none":
            what = "a block that is left out needs a shortcut to pass the image on, and `model.shortcut` is none"
            mistakes.append(("stochastic_depth", what))
        if self.zero_init and (self.block, self.norm, self.shortcut) != ("basic", "batch", "projection"):
            what = "needs basic blocks with batch normalisation and a shortcut: a block of zeros passes nothing on"
            mistakes.append(("zero_init", what))
        if mistakes:
            raise ConflictError(*mistakes)
        return self
