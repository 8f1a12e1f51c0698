"""HarDNet in PyTorch: convolution, normalisation and ReLU6 by the harmonic rules (Chao et al., 2019, arXiv 1909.00948).

timm has no HarDNet.
"""

import dataclasses
from typing import Any

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of each block: growth, number of layers, channels of the transition, and whether the map is halved after it."""

    stem: tuple[int, int]
    multiplier: float
    dropout: float
    blocks: tuple[tuple[int, int, int, bool], ...]


SETTINGS = {
    "hardnet68": Settings((32, 64), 1.7, 0.1, (
        (14, 8, 128, True), (16, 16, 256, False), (20, 16, 320, True), (40, 16, 640, True), (160, 4, 1024, False))),
}  # fmt: skip


def conv_norm(inputs: int, filters: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU6."""
    conv = nn.Conv2d(inputs, filters, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(filters), nn.ReLU6(inplace=True))


class HarmonicBlock(nn.Module):
    """Layer l reads layer l - 2^i for every 2^i that divides l; the output is the odd layers and the last one."""

    def __init__(self, inputs: int, growth: int, multiplier: float, layers: int) -> None:
        super().__init__()
        widths, convs = [inputs], []
        self.links = []
        for layer in range(1, layers + 1):
            steps = [2**i for i in range(layer.bit_length()) if layer % 2**i == 0]
            self.links.append([layer - step for step in steps])
            width = float(growth)
            for _ in steps[1:]:
                width *= multiplier
            widths.append(int(width + 1) // 2 * 2)
            convs.append(conv_norm(sum(widths[link] for link in self.links[-1]), widths[-1], 3))
        self.convs = nn.ModuleList(convs)
        self.kept = [layer for layer in range(1, layers + 1) if layer % 2 or layer == layers]
        self.filters = sum(widths[layer] for layer in self.kept)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [x]
        for conv, links in zip(self.convs, self.links, strict=True):
            maps.append(conv(torch.cat([maps[link] for link in links], 1)))
        return torch.cat([maps[layer] for layer in self.kept], 1)


def create_model(name: str) -> Any:
    """The network `name` for 1000 classes, giving logits."""
    settings = SETTINGS[name]
    first, inputs = settings.stem
    layers: list[nn.Module] = [conv_norm(3, first, 3, 2), conv_norm(first, inputs, 3), nn.MaxPool2d(3, 2, 1)]
    for growth, depth, filters, halve in settings.blocks:
        block = HarmonicBlock(inputs, growth, settings.multiplier, depth)
        layers += [block, conv_norm(block.filters, filters, 1)]
        if halve:
            layers.append(nn.MaxPool2d(2))
        inputs = filters
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(settings.dropout), nn.Linear(inputs, 1000)]
    return nn.Sequential(*layers, *head)
