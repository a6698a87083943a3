#!/usr/bin/env python3
"""PyTorch's losses and gradients of FedGKT's nets, in float64. Run in this folder: python3 make_gkt_nets.py

Writes gkt_nets.json: for resnet8-client with CE + KD and for small-server with KD + CE (T = 3), one batch in training mode: the loss and of
every parameter's gradient the first values, the sum and the norm. Weights, samples and teachers follow from formulas that the test repeats.
"""
import json
import math

import torch
from torch.nn import functional as F


def phase(name):
    return sum(name.encode()) % 97


class Net:
    """Parameters by name, made when they are first asked for."""

    def __init__(self):
        self.parameters = {}

    def tensor(self, name, shape, center, scale):
        values = [center + scale * math.sin(0.7 * (i + 1) + 1.3 * phase(name)) for i in range(math.prod(shape))]
        self.parameters[name] = torch.tensor(values, dtype=torch.float64).reshape(shape).requires_grad_(True)
        return self.parameters[name]

    def conv(self, name, x, channels, kernel, stride=1):
        weight = self.tensor(name + ".weight", [channels, x.shape[1], kernel, kernel], 0, 1 / math.sqrt(x.shape[1] * kernel * kernel))
        return F.conv2d(x, weight, None, stride, kernel // 2)

    def norm(self, name, x):
        return F.batch_norm(x, None, None, self.tensor(name + ".weight", [x.shape[1]], 1, 0.1), self.tensor(name + ".bias", [x.shape[1]], 0, 0.1), True)

    def shortcut(self, name, x, channels, stride):
        if stride == 1 and x.shape[1] == channels:
            return x
        return self.norm(name + ".downsample.1", self.conv(name + ".downsample.0", x, channels, 1, stride))

    def bottleneck(self, name, x, planes, stride=1):
        y = F.relu(self.norm(name + ".bn1", self.conv(name + ".conv1", x, planes, 1)))
        y = F.relu(self.norm(name + ".bn2", self.conv(name + ".conv2", y, planes, 3, stride)))
        return F.relu(self.norm(name + ".bn3", self.conv(name + ".conv3", y, 4 * planes, 1)) + self.shortcut(name, x, 4 * planes, stride))

    def basic(self, name, x, channels, stride=1):
        y = F.relu(self.norm(name + ".bn1", self.conv(name + ".conv1", x, channels, 3, stride)))
        return F.relu(self.norm(name + ".bn2", self.conv(name + ".conv2", y, channels, 3)) + self.shortcut(name, x, channels, stride))

    def classifier(self, x, classes):
        x = x.mean((2, 3))
        weight = self.tensor("fc.weight", [classes, x.shape[1]], 0, 1 / math.sqrt(x.shape[1]))
        return F.linear(x, weight, self.tensor("fc.bias", [classes], 0, 0.1))


def client(net, x):
    x = F.relu(net.norm("bn1", net.conv("conv1", x, 16, 3)))
    return net.classifier(net.bottleneck("layer1.1", net.bottleneck("layer1.0", x, 16), 16), 5)


def server(net, x):
    for stage in (1, 2):
        for block in (0, 1):
            x = net.basic(f"layer{stage}.{block}", x, 16 << stage, 2 if stage > 1 and block == 0 else 1)
    return net.classifier(x, 5)


def samples(shape):
    return torch.tensor([((31 * i + 7 * (i // 5)) % 23 - 11) / 8 for i in range(math.prod(shape))], dtype=torch.float64).reshape(shape)


cases = []
for name, model, shape, ce, kd in [("resnet8-client", client, (6, 3, 12, 12), 1, 1), ("small-server", server, (6, 16, 6, 6), 0.5, 1)]:
    net, temperature = Net(), 3
    z = model(net, samples(shape))
    teacher = torch.tensor([[((29 * n + 7 * j) % 31 - 15) * 0.2 for j in range(5)] for n in range(6)], dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 4, 2, 3])
    distilled = temperature**2 * F.kl_div(F.log_softmax(z / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
    loss = ce * F.cross_entropy(z, labels) + kd * distilled
    loss.backward()
    gradients = {key: {"first": p.grad.flatten()[:8].tolist(), "sum": p.grad.sum().item(), "norm": p.grad.norm().item()} for key, p in net.parameters.items()}
    cases.append({"model": name, "shape": shape[1:], "cross_entropy": ce, "distillation": kd, "temperature": temperature, "loss": loss.item(), "gradients": gradients})
with open("gkt_nets.json", "w") as file:
    json.dump(cases, file, indent=0)
