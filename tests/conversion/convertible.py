"""Small networks, each with something that a conversion must understand."""

import copy
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof.conversion import Conversion, convert


class Head(nn.Module):
    """A network whose maps are averaged and classified."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = body
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class Function(nn.Module):
    """A layer made of a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Parts(nn.Module):
    """A network made of parts and a function of them."""

    def __init__(self, function, **parts) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def body(*layers: nn.Module, channels: int = 8) -> nn.Module:
    return Head(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *layers), channels)


class Residual(nn.Module):
    """Two branches that sample, and must sample the same phase."""

    def __init__(self, channels: int = 8, stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1)
        self.shortcut = nn.Conv2d(channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.conv2(y)
        y += self.shortcut(x)
        return F.relu_(y)


class SqueezeExcite(nn.Module):
    """Channel attention that reads its sizes."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4)
        self.fc2 = nn.Linear(4, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.size()
        gate = F.adaptive_avg_pool2d(x, 1).view(n, c)
        return x * self.fc2(F.relu(self.fc1(gate))).sigmoid().view(n, c, 1, 1)


class ShuffledGroups(nn.Module):
    """Channel shuffle by reshaping."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class SamePadding(nn.Conv2d):
    """Convolution padded like TensorFlow's, by what the size needs."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (
            max((-(-size // step) - 1) * step + kernel - size, 0)
            for size, step, kernel in zip(x.shape[-2:], self.stride, self.kernel_size, strict=True)
        )
        x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride)


class BlurPool(nn.Module):
    """Anti-aliasing with reflect padding."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (row[:, None] * row).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        kernel = self.kernel[:1].expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, kernel, stride=2, groups=x.shape[1])


class PatchMerging(nn.Module):
    """Space to depth by slices, channels last."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        parts = [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1))).permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    """Attention in windows, with a bias for each pair of positions inside."""

    def __init__(self, channels: int = 8, window: int = 4) -> None:
        super().__init__()
        self.window = window
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias = nn.Parameter(torch.randn(2, window**2, window**2))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        s = self.window
        x = x.permute(0, 2, 3, 1).reshape(n, h // s, s, w // s, s, c)
        x = x.transpose(2, 3).reshape(-1, s * s, c)
        q, k, v = self.qkv(x).reshape(-1, s * s, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) + self.bias).softmax(-1)
        x = (attention @ v).transpose(1, 2).reshape(n, h // s, w // s, s, s, c)
        return x.transpose(2, 3).reshape(n, h, w, c).permute(0, 3, 1, 2)


class GlobalAttention(nn.Module):
    """Attention between all positions, none of which has a name."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + y.transpose(1, 2).reshape(x.shape)


class VisionTransformer(nn.Module):
    """Patches, a class token, position embeddings."""

    def __init__(self, size: int = 32, patch: int = 8, channels: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, channels, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, channels))
        self.position = nn.Parameter(torch.randn(1, 1 + (size // patch) ** 2, channels))
        self.block = nn.TransformerEncoderLayer(channels, 2, 16, batch_first=True)
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.block(x)[:, 0])


class Exits(nn.Module):
    """Parallel branches of several resolutions, exchanged and joined, as in HRNet."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, 2, 1)
        self.fine = nn.Conv2d(channels, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, channels, 3, 2, 1)
        self.further = nn.Conv2d(channels, channels, 3, 2, 1)
        self.fc = nn.Linear(3 * channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        fine, middle = self.fine(x), self.down(x)
        coarse = self.further(middle.relu())
        fine = fine + F.interpolate(middle, scale_factor=2.0)
        middle = middle + self.down(fine) + F.interpolate(coarse, scale_factor=2.0)
        maps = (fine, middle, coarse)
        return self.fc(torch.cat([m.mean((-2, -1)) for m in maps], 1))


class UNet(nn.Module):
    """A map for a map, with skips, transposed convolutions and bilinear interpolation."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, channels, 3, 2, 1)
        self.bottom = nn.Conv2d(channels, channels, 3, padding=1)
        self.up = nn.ConvTranspose2d(channels, channels, 4, 2, 1)
        self.last = nn.Conv2d(3 * channels, 2, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        skip = self.first(x).relu()
        small = self.bottom(F.max_pool2d(self.down(skip).relu(), 2)).relu()
        small = F.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False)
        joined = torch.cat([skip, self.up(small), F.interpolate(small, skip.shape[2:])], 1)
        return {"out": self.last(joined)}


class Coarser(nn.Module):
    """A branch that works at half the resolution and is added to what goes past it."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels, 3, 2, 1)
        self.up = nn.ConvTranspose2d(channels, channels, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x).relu())


class PooledContext(nn.Module):
    """A mean of the map, enlarged again and joined to it."""

    def forward(self, x: Tensor) -> Tensor:
        mean = F.adaptive_avg_pool2d(x, 1).relu()
        mean = F.interpolate(mean, size=x.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([x, mean], 1)


class Flattened(nn.Module):
    """VGG's classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(8, 8, 3, padding=1)
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(8 * 64, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class LocalTransformer(nn.Module):
    """MobileViT: attention between the same pixels of all patches."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.reshape(n * c * (h // 2), 2, w // 2, 2).transpose(1, 2)
        y = y.reshape(n, c, h * w // 4, 4).transpose(1, 3).reshape(n * 4, h * w // 4, c)
        z = self.norm(y)
        y = y + F.scaled_dot_product_attention(z, z, z)
        y = y.reshape(n, 4, h * w // 4, c).transpose(1, 3)
        y = y.reshape(n * c * (h // 2), w // 2, 2, 2).transpose(1, 2)
        return y.reshape(n, c, h, w)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "strided": lambda: body(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)),
    "stride of 4": lambda: body(nn.Conv2d(8, 8, 7, 4, 3)),
    "stride per axis": lambda: body(nn.Conv2d(8, 8, 3, (2, 1), 1), nn.MaxPool2d((1, 4))),
    "dilated": lambda: body(nn.Conv2d(8, 8, 3, 2, 2, dilation=2)),
    "grouped": lambda: body(nn.Conv2d(8, 8, 3, 2, 1, groups=4)),
    "depthwise": lambda: body(nn.Conv2d(8, 8, 5, 2, 2, groups=8), nn.Conv2d(8, 8, 1)),
    "padding same": lambda: body(nn.Conv2d(8, 8, 5, padding="same"), nn.Conv2d(8, 8, 3, 2, 1)),
    "padding reflect": lambda: body(nn.Conv2d(8, 8, 3, 2, 1, padding_mode="reflect")),
    "padding by a layer": lambda: body(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, 2)),
    "padding like TensorFlow": lambda: body(SamePadding(8, 8, 3, 2)),
    "kernel smaller than stride": lambda: body(nn.Conv2d(8, 8, 1, 2)),
    "even kernel": lambda: body(nn.Conv2d(8, 8, 4, 2, 1)),
    "unpadded": lambda: body(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 5, 2)),
    "max pool": lambda: body(nn.MaxPool2d(3, 2, 1)),
    "max pool, ceil mode": lambda: body(nn.MaxPool2d(3, 2, ceil_mode=True)),
    "average pool": lambda: body(nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "adaptive pool": lambda: body(nn.AdaptiveAvgPool2d(8)),
    "adaptive pool, no divisor": lambda: body(nn.AdaptiveAvgPool2d(5)),
    "functional pools": lambda: body(
        Function(lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)),
        Function(lambda x: F.avg_pool2d(x, 3, 2, 1)),
    ),
    "power-average pool": lambda: body(nn.ReLU(), nn.LPPool2d(2, 2)),
    "blur pool": lambda: body(BlurPool()),
    "residual": lambda: body(Residual(), Residual(stride=1), Residual()),
    "coarser branch": lambda: body(Coarser(), nn.MaxPool2d(2), Coarser()),
    "pooled context": lambda: body(PooledContext(), nn.MaxPool2d(2), channels=16),
    "down to one pixel": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 4, 4),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(8, 8, 3, padding=1)),
        *(nn.Conv2d(8, 8, 3, 2, 1), nn.Flatten(), nn.Linear(8, 5)),
    ),
    "squeeze and excite": lambda: body(nn.Conv2d(8, 8, 3, 2, 1), SqueezeExcite(), Residual()),
    "channel shuffle": lambda: body(Residual(), ShuffledGroups(), nn.MaxPool2d(2)),
    "space to depth": lambda: body(nn.PixelUnshuffle(2), nn.Conv2d(32, 8, 1)),
    "space to depth by slices": lambda: body(PatchMerging()),
    "depth to space": lambda: body(nn.MaxPool2d(2), nn.PixelShuffle(2), channels=2),
    "interpolation": lambda: body(
        nn.Conv2d(8, 8, 3, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear"), nn.MaxPool2d(2)
    ),
    "interpolation down": lambda: body(Function(lambda x: F.interpolate(x, scale_factor=0.5))),
    "norms": lambda: body(nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.MaxPool2d(2)),
    "norm per position": lambda: body(nn.MaxPool2d(2), nn.LayerNorm((8, 16, 16))),
    "shift by padding": lambda: body(nn.ZeroPad2d((-1, 1, -1, 1)), nn.AvgPool2d(1, 2)),
    "windows": lambda: body(WindowAttention()),
    "attention": lambda: body(nn.Conv2d(8, 8, 4, 4), GlobalAttention()),
    "attention between patches": lambda: body(nn.MaxPool2d(2), LocalTransformer()),
    "vision transformer": VisionTransformer,
    "flattened": Flattened,
    "exits": Exits,
}
"""Networks for images of 32 x 32."""


def network(name: str, seed: int = 0) -> nn.Module:
    """A network of the list, with weights of a seed."""
    torch.manual_seed(seed)
    return NETWORKS[name]().eval()


@functools.cache
def original(name: str) -> nn.Module:
    """What ``converted`` was made from."""
    return network(name)


@functools.cache
def _converted(name: str) -> Conversion:
    return convert(original(name), torch.ones(1, 3, 32, 32))


def converted(name: str) -> Conversion:
    """A network of the list, converted once; the caller may do with it what it likes."""
    return copy.deepcopy(_converted(name))
