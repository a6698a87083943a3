#!/usr/bin/env python3
"""PyTorch's losses and gradients of the model "lstm", in float64. Run in this folder: python3 make_lstm.py

Writes lstm.json: for nets of several shapes, narrowed ones among them, one batch: the loss and of every parameter's gradient the norm, the sum,
the product with sin(1), sin(2), … and the first values. Weights, tokens and labels follow from formulas that the test repeats.
"""
import json
import math

import torch
from torch.nn import functional as F

VOCABULARY, CLASSES = 7, 5
# embedding, units of each layer, length, batch
CASES = {
    "one layer": (3, [5], 6, 4),
    "vectors and rest": (8, [32, 20], 5, 3),
    "three widths": (3, [18, 6, 4], 9, 3),
    "single units": (1, [1, 1], 4, 2),
    "batch of one": (4, [6, 6], 8, 1),
    "sequence of one": (4, [6, 7], 1, 3),
    "one token": (2, [4], 1, 1),
}


def tensor(name, shape):
    phase = sum(name.encode()) % 97
    values = [0.6 * math.sin(0.7 * (i + 1) + 1.3 * phase) for i in range(math.prod(shape))]
    return torch.tensor(values, dtype=torch.float64).reshape(shape).requires_grad_(True)


out = {}
for name, (embedding, widths, length, batch) in CASES.items():
    parameters = {}

    def parameter(label, *shape):
        parameters[label] = tensor(label, shape)
        return parameters[label]

    tokens = torch.tensor([(5 * i + i * i // 3) % VOCABULARY for i in range(batch * length)]).reshape(batch, length)
    labels = torch.tensor([(3 * i + 1) % CLASSES for i in range(batch)])
    x = F.embedding(tokens, parameter("embedding.weight", VOCABULARY, embedding))
    for layer, units in enumerate(widths):
        module = torch.nn.LSTM(x.shape[2], units, batch_first=True, dtype=torch.float64)
        for key, value in module.named_parameters():
            label = f"lstm.{key[:-1]}{layer}"
            value.data.copy_(tensor(label, value.shape))
            parameters[label] = value
        x, _ = module(x)
    logits = F.linear(x[:, -1], parameter("fc.weight", CLASSES, widths[-1]), parameter("fc.bias", CLASSES))
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    gradients = {}
    for label, value in parameters.items():
        g = value.grad.flatten()
        wave = torch.sin(torch.arange(1, len(g) + 1, dtype=torch.float64))
        gradients[label] = {"norm": g.norm().item(), "sum": g.sum().item(), "wave": (g @ wave).item(), "first": g[:4].tolist()}
    out[name] = {"embedding": embedding, "widths": widths, "length": length, "batch": batch, "loss": loss.item(), "gradients": gradients}
with open("lstm.json", "w") as file:
    json.dump(out, file, indent=1)
