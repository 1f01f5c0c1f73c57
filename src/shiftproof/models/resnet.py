"""Residual networks, one implementation for ImageNet and CIFAR-10 and for every placement.

References:
    K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", CVPR 2016.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from shiftproof.models.downsampling import Downsampling
from shiftproof.models.sizes import Places, require_size
from shiftproof.nn import Conv2d, GlobalMean
from shiftproof.ops.padding import PaddingMode


def _conv(
    in_channels: int, out_channels: int, size: int, stride: int, padding_mode: PaddingMode
) -> nn.Conv2d:
    # A 1 x 1 convolution has no border; any mode but zeros would copy its input all the same.
    mode: PaddingMode = padding_mode if size > 1 else "zeros"
    return Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False, padding_mode=mode)


class Projection(nn.Sequential):
    """A 1 x 1 convolution and its batch norm, on the shortcut of a block."""

    def forward(self, x: Tensor, phase: Tensor | None = None) -> Tensor:
        """Bring the shortcut to the shape of the main branch.

        Args:
            x: Feature map, ``(N, C, H, W)``.
            phase: Component that the stride samples, ``(N,)``; the one at the origin if None.

        Returns:
            Feature map, ``(N, C', H', W')``.
        """
        conv, norm = self
        projected: Tensor = norm(conv(x, phase))
        return projected


class ResidualBlock(nn.Module):
    """What both kinds of block share: the parts around the main branch.

    Args:
        in_channels: Channels of the input.
        width: Channels inside the block; the output has ``expansion`` times as many.
        strided: Whether the block halves the resolution.
        downsampling: How it does.
    """

    expansion: ClassVar[int]
    relu: nn.Module

    def __init__(
        self, in_channels: int, width: int, strided: bool, downsampling: Downsampling
    ) -> None:
        super().__init__()
        out_channels = width * self.expansion
        mode = downsampling.padding_mode
        stride = downsampling.conv_stride if strided else 1
        self.select = downsampling.select() if strided else None
        self.build_main(in_channels, width, stride, mode)
        self.pool = downsampling.pool() if strided else None
        self.downsample = None
        if strided or in_channels != out_channels:
            self.downsample = Projection(
                _conv(in_channels, out_channels, 1, stride, mode),
                nn.BatchNorm2d(out_channels),
            )

    def build_main(
        self, in_channels: int, width: int, stride: int, padding_mode: PaddingMode
    ) -> None:
        """Build the layers of the main branch.

        Args:
            in_channels: Channels of the input.
            width: Channels inside the block.
            stride: Stride of the one convolution that may have one.
            padding_mode: Padding of the convolutions.
        """
        raise NotImplementedError

    def forward_before_pool(self, x: Tensor, phase: Tensor | None) -> Tensor:
        """Run the main branch up to where the paper downsamples it.

        Args:
            x: Input of the block, ``(N, C, H, W)``.
            phase: Component that its stride samples, ``(N,)``; the one at the origin if None.

        Returns:
            Map behind the last ReLU of the branch.
        """
        raise NotImplementedError

    def forward_after_pool(self, x: Tensor) -> Tensor:
        """Run the rest of the main branch, up to its last batch norm.

        Args:
            x: The downsampled map.

        Returns:
            Map to be added to the shortcut.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Run the block.

        Args:
            x: Feature map, ``(N, in_channels, H, W)``.

        Returns:
            Feature map, ``(N, expansion * width, H, W)``, at half the resolution if strided.

        Raises:
            ValueError: If the block chooses a phase and the height or the width is odd.
        """
        phase = None if self.select is None else self.select(x)
        main, shortcut = self.forward_before_pool(x, phase), x
        if self.pool is not None:
            main, shortcut = self.pool(main, shortcut)
        main = self.forward_after_pool(main)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut, phase)
        output: Tensor = self.relu(main + shortcut)
        return output


class BasicBlock(ResidualBlock):
    """Two 3 x 3 convolutions; a stride is in the first."""

    expansion = 1

    def build_main(
        self, in_channels: int, width: int, stride: int, padding_mode: PaddingMode
    ) -> None:
        """Build the two convolutions and their batch norms."""
        self.conv1 = _conv(in_channels, width, 3, stride, padding_mode)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3, 1, padding_mode)
        self.bn2 = nn.BatchNorm2d(width)

    def forward_before_pool(self, x: Tensor, phase: Tensor | None) -> Tensor:
        """Run the first convolution."""
        branch: Tensor = self.relu(self.bn1(self.conv1(x, phase)))
        return branch

    def forward_after_pool(self, x: Tensor) -> Tensor:
        """Run the second convolution."""
        branch: Tensor = self.bn2(self.conv2(x))
        return branch


class Bottleneck(ResidualBlock):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1; a stride is in the second, as in torchvision."""

    expansion = 4

    def build_main(
        self, in_channels: int, width: int, stride: int, padding_mode: PaddingMode
    ) -> None:
        """Build the three convolutions and their batch norms."""
        self.conv1 = _conv(in_channels, width, 1, 1, padding_mode)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride, padding_mode)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, width * self.expansion, 1, 1, padding_mode)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)

    def forward_before_pool(self, x: Tensor, phase: Tensor | None) -> Tensor:
        """Run the first two convolutions."""
        x = self.relu(self.bn1(self.conv1(x)))
        branch: Tensor = self.relu(self.bn2(self.conv2(x, phase)))
        return branch

    def forward_after_pool(self, x: Tensor) -> Tensor:
        """Run the third convolution."""
        branch: Tensor = self.bn3(self.conv3(x))
        return branch


@dataclass(frozen=True)
class Trunk:
    """The size of a residual network.

    Attributes:
        block: Kind of residual block.
        depths: Blocks of each stage; every stage but the first halves the resolution.
        widths: Channels inside the blocks of each stage.
        imagenet_stem: Whether the stem is the 7 x 7 convolution and pool that divide the resolution
            by 4 (ImageNet), and not a 3 x 3 convolution at full resolution (CIFAR-10).
        num_classes: Classes of the data set it was made for.
    """

    block: type[ResidualBlock]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    imagenet_stem: bool
    num_classes: int

    @property
    def total_stride(self) -> int:
        """Pixels of the input per pixel of the last feature map."""
        return (4 if self.imagenet_stem else 1) << (len(self.depths) - 1)

    @property
    def places(self) -> Places:
        """Where the network halves its maps."""
        names = ["conv1", "maxpool"] if self.imagenet_stem else []
        names += [f"layer{number}" for number in range(2, len(self.depths) + 1)]
        return tuple((name, 2**number) for number, name in enumerate(names, 1))


class ResNet(nn.Module):
    """A residual network with torchvision's module names, and so its state_dict.

    Args:
        trunk: Size of the network.
        downsampling: Where and how it loses resolution.
        num_classes: Number of logits; that of the trunk's data set if None.
        in_channels: Channels of the input.

    Attributes:
        total_stride: Pixels of the input per pixel of the last feature map.
        size_multiple: What height and width must be multiples of: ``total_stride`` for a network
            that chooses phases, 1 for the others.
        is_shift_invariant: Whether the logits ignore circular shifts of the input, given that
            height and width are multiples of ``total_stride``.

    Equivariance:
        Where ``is_shift_invariant``, in eval mode: logits are the same under every circular shift,
        bit for bit where the convolutions round alike at every pixel (CPU, float32, channels_last),
        elsewhere to their rounding.  Else none.  Checked by ``tests/models/test_invariance.py``.
    """

    def __init__(
        self,
        trunk: Trunk,
        downsampling: Downsampling,
        *,
        num_classes: int | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.total_stride = trunk.total_stride
        self.is_shift_invariant = downsampling.is_shift_invariant
        self.size_multiple = trunk.total_stride if downsampling.needs_even_maps else 1
        self.places = trunk.places if downsampling.needs_even_maps else ()
        width, mode = trunk.widths[0], downsampling.padding_mode
        stride, select, pool = downsampling.stem() if trunk.imagenet_stem else (1, None, None)
        self.select = select
        self.conv1 = _conv(in_channels, width, 7 if trunk.imagenet_stem else 3, stride, mode)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = pool
        stages = []
        channels = width
        for number, (depth, width) in enumerate(zip(trunk.depths, trunk.widths, strict=True), 1):
            blocks = []
            for index in range(depth):
                strided = number > 1 and index == 0
                blocks.append(trunk.block(channels, width, strided, downsampling))
                channels = width * trunk.block.expansion
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            stages.append(f"layer{number}")
        self.stages = tuple(stages)
        # The others keep torchvision's pooling, and so its logits to the last bit.
        self.avgpool = GlobalMean() if self.is_shift_invariant else nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, trunk.num_classes if num_classes is None else num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images, ``(N, in_channels, H, W)``.

        Returns:
            Logits, ``(N, num_classes)``.

        Raises:
            ValueError: If the height or the width is not a multiple of ``size_multiple``.
        """
        if self.places:
            x = require_size(x, type(self).__name__, self.places)
        phase = None if self.select is None else self.select(x)
        x = self.relu(self.bn1(self.conv1(x, phase)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits
