#!/usr/bin/env python3
"""Loads models that Espalier wrote as safetensors into PyTorch modules and compares the logits.

python3 check_logits.py FOLDER: for every <model>.safetensors in it there is a <model>.json with the batch and the logits.
"""
import json
import pathlib
import struct
import sys

import torch
from torch import nn


def read_safetensors(path):
    types = {"F32": torch.float32, "I64": torch.int64}
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in info["data_offsets"])
        values = torch.frombuffer(bytearray(data[begin:end]), dtype=types[info["dtype"]])
        tensors[name] = values.reshape(info["shape"])
    return tensors


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
        self.fc1, self.fc2 = nn.Linear(3136, 512), nn.Linear(512, 10)

    def forward(self, x):
        pool = nn.functional.max_pool2d
        x = pool(self.conv2(pool(self.conv1(x).relu(), 2)).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


class Block(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.shortcut = stride != 1

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.downsample(x) if self.shortcut else x)).relu()


class ResNet8(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(Block(16, 16, 1)), nn.Sequential(Block(16, 32, 2)),
                                                 nn.Sequential(Block(32, 64, 2)))
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.fc(x.mean((2, 3)))


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 256, 2, batch_first=True)
        self.fc = nn.Linear(256, 20)

    def forward(self, x):
        return self.fc(self.lstm(self.embedding(x))[0][:, -1])


folder = pathlib.Path(sys.argv[1])
for name, module in {"cnn": Cnn(), "resnet8": ResNet8(), "lstm": Lstm()}.items():
    case = json.loads((folder / f"{name}.json").read_text())
    module.load_state_dict(read_safetensors(folder / f"{name}.safetensors"))
    x = torch.tensor(case["x"]).reshape(case["shape"])
    with torch.no_grad():
        logits = module.eval()(x)
    expected = torch.tensor(case["logits"]).reshape(logits.shape)
    worst = (logits - expected).abs().max().item()
    print(f"{name}: largest difference {worst:.2e} of logits with deviation {expected.std().item():.2e}")
    if expected.std() < 1e-3:
        sys.exit(f"{name}: the logits are all alike, which tests nothing")
    if not worst < 1e-5 * max(1.0, expected.abs().max().item()):
        sys.exit(f"{name}: logits differ")
