#!/usr/bin/env python3
"""TorchScript modules as users write them, for the tests of unit groups: python3 make_scripts.py FOLDER"""
import pathlib
import sys

import torch
from torch import nn
from torch.nn import functional as F


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.dropout = nn.Dropout(0.1)
        self.fc1, self.fc2 = nn.Linear(6 * 16, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        x = self.dropout(F.gelu(self.fc1(torch.flatten(x, 1))))
        return F.log_softmax(self.fc2(x), dim=1)


class Block(nn.Module):
    def __init__(self, channels, middle, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, middle, 3, stride, 1, bias=False), nn.BatchNorm2d(middle)
        self.conv2, self.bn2 = nn.Conv2d(middle, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        nn.init.zeros_(self.bn2.weight)  # a branch that is silent at the start

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(Block(8, 6, 8, 1), Block(8, 12, 10, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(10, 5)

    def forward(self, x):
        x = self.pool(self.blocks(self.stem(x)))
        return self.fc(torch.flatten(x, 1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Linear(8, 12), nn.LSTM(12, 16, batch_first=True)
        self.head, self.fc = nn.Linear(16, 8), nn.Linear(8, 5)

    def forward(self, x):
        rows, _ = self.lstm(self.embed(x.squeeze(1)))
        return self.fc(F.relu(self.head(rows[:, -1])))


torch.manual_seed(1)
folder = pathlib.Path(sys.argv[1])
modules = {
    "sequential": nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1),
        nn.LeakyReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 4, 10), nn.Sigmoid(), nn.Linear(10, 5)),
    "functional": Functional(),
    "resnet": ResNet(),
    "recurrent": Recurrent(),
    "depthwise": nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU(), nn.Conv2d(6, 7, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 5)),
}
for name, module in modules.items():
    torch.jit.script(module).save(folder / f"{name}.pt")
torch.jit.trace(ResNet().eval(), torch.zeros(2, 1, 8, 8)).save(folder / "resnet_traced.pt")
