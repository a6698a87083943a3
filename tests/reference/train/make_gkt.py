#!/usr/bin/env python3
"""PyTorch's numbers for FedGKT's losses. Run in this folder: python3 make_gkt.py

Writes gkt.json: one SGD step (rate 0.5) of a linear model on five samples, one of which has no teacher: the client's
loss CE + alpha KD, the server's KD + alpha CE, and what they are without distillation. KD is summed over the taught
samples and divided by all of them.
"""
import json

import torch
from torch.nn import functional as F

x = [[((13 * n + 7 * j) % 17 - 8) * 0.25 for j in range(3)] for n in range(5)]
teacher = [[((29 * n + 7 * j) % 31 - 15) * 0.4 for j in range(4)] for n in range(5)]
weight = [[((19 * i + 5 * j) % 13 - 6) * 0.125 for j in range(3)] for i in range(4)]
bias, labels, taught = [0.25, -0.5, 0.0, 0.75], [2, 0, 3, 2, 1], [1, 1, 0, 1, 1]
out = {"x": sum(x, []), "teacher": sum(teacher, []), "weight": sum(weight, []), "bias": bias, "labels": labels,
       "taught": taught, "cases": []}
for side, alpha, temperature in [("client", 1, 3), ("client", 0.5, 2), ("server", 1, 3), ("server", 0.5, 2),
                                 ("client", 0, 3), ("server", 0, 1)]:
    w = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
    z = F.linear(torch.tensor(x, dtype=torch.float64), w, b)
    t = torch.tensor(teacher, dtype=torch.float64)
    rows = F.kl_div(F.log_softmax(z / temperature, 1), F.softmax(t / temperature, 1), reduction="none").sum(1)
    kd = temperature**2 * (rows * torch.tensor(taught)).mean()
    ce = F.cross_entropy(z, torch.tensor(labels))
    loss = ce + alpha * kd if side == "client" else kd + alpha * ce
    loss.backward()
    with torch.no_grad():
        out["cases"].append({"cross_entropy": 1 if side == "client" else alpha,
                             "distillation": alpha if side == "client" else 1, "temperature": temperature,
                             "loss": loss.item(), "weight": (w - 0.5 * w.grad).flatten().tolist(),
                             "bias": (b - 0.5 * b.grad).tolist()})
with open("gkt.json", "w") as file:
    json.dump(out, file, indent=1)
