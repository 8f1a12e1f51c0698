"""RedNet-50 in PyTorch with the involution written out: patches unfolded, multiplied by their kernels, summed.

What the involution paper's code falls back to without its CUDA kernel (Li et al., 2021, arXiv 2103.06255). timm has no RedNet.
"""

from typing import Any

import torch
from torch import nn

DEPTHS = {"rednet26": (1, 2, 4, 1), "rednet38": (2, 3, 5, 2), "rednet50": (3, 4, 6, 3)}
GROUP_CHANNELS, REDUCTION = 16, 4


class Involution(nn.Module):
    """`(batch, channels, height, width)` filtered with kernels made from itself, one per pixel and 16 channels."""

    def __init__(self, channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.groups = kernel_size, stride, channels // GROUP_CHANNELS
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.reduce = conv_norm(channels, channels // REDUCTION, 1)
        self.span = nn.Conv2d(channels // REDUCTION, kernel_size**2 * self.groups, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernels = self.span(self.reduce(self.pool(x)))
        batch, _, height, width = kernels.shape
        kernels = kernels.reshape(batch, self.groups, 1, self.kernel_size**2, height, width)
        patches = nn.functional.unfold(x, self.kernel_size, padding=self.kernel_size // 2, stride=self.stride)
        patches = patches.reshape(batch, self.groups, GROUP_CHANNELS, self.kernel_size**2, height, width)
        return (kernels * patches).sum(3).reshape(batch, -1, height, width)


def conv_norm(inputs: int, filters: int, kernel_size: int, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution, batch normalisation and, unless `relu` is False, ReLU."""
    conv = nn.Conv2d(inputs, filters, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(filters), *([nn.ReLU(inplace=True)] if relu else []))


class Bottleneck(nn.Module):
    """1x1 → 7x7 involution → 1x1, added to a shortcut, which is a projection where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_norm(inputs, width, 1),
            Involution(width, 7, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv_norm(width, 4 * width, 1, relu=False),
        )
        unchanged = stride == 1 and inputs == 4 * width
        self.shortcut = nn.Identity() if unchanged else conv_norm(inputs, 4 * width, 1, stride, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


def create_model(name: str) -> Any:
    """The network `name` for 1000 classes, giving logits."""
    layers: list[nn.Module] = [
        conv_norm(3, 32, 3, 2),
        nn.Sequential(Involution(32, 3), nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
        conv_norm(32, 64, 3),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    for stage, depth in enumerate(DEPTHS[name]):
        for block in range(depth):
            width = 64 * 2**stage
            layers.append(Bottleneck(inputs, width, stride=2 if stage > 0 and block == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))
