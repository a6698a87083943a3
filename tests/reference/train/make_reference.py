#!/usr/bin/env python3
"""Numbers of PyTorch that train's tests compare with. Run in this folder: python3 make_reference.py

Writes optimizers.json (weights after five steps of every optimizer) and scripted.pt (a TorchScript module) with
scripted.json (its logits, loss and gradient norms for one batch), losses.json (distillation and masked cross-entropy
with their gradients).
"""
import json

import torch

START = [0.5, -1.25, 2.0, 0.0, -0.03125, 3.5, -4.0]
GRADIENTS = [[((7 * step + 3 * i) % 11 - 5) * 0.25 for i in range(7)] for step in range(5)]
CASES = {
    "sgd": (torch.optim.SGD, dict(lr=0.1), 0),
    "sgd_decay": (torch.optim.SGD, dict(lr=0.1, weight_decay=0.05), 0),
    "momentum": (torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.05), 0),
    "nesterov": (torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05), 0),
    "adam": (torch.optim.Adam, dict(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1), 0),
    "amsgrad": (torch.optim.Adam, dict(lr=0.01, amsgrad=True), 0),
    "adamw": (torch.optim.AdamW, dict(lr=0.01, weight_decay=0.1), 0),
    "clipped": (torch.optim.SGD, dict(lr=0.1, momentum=0.5), 1.5),
}


def optimizers():
    out = {"start": START, "gradients": GRADIENTS, "cases": {}}
    for name, (kind, options, clip) in CASES.items():
        w = torch.nn.Parameter(torch.tensor(START))
        optimizer = kind([w], **options)
        for gradient in GRADIENTS:
            w.grad = torch.tensor(gradient)
            if clip > 0:
                torch.nn.utils.clip_grad_norm_([w], clip)
            optimizer.step()
        out["cases"][name] = w.detach().double().tolist()
    with open("optimizers.json", "w") as file:
        json.dump(out, file, indent=1)


class Scripted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Sequential(torch.nn.Linear(4 * 6 * 6, 5))

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


def scripted():
    torch.manual_seed(1)
    module = Scripted()
    values = [((31 * i) % 97) / 97 - 0.5 for i in range(3 * 64)]
    labels = [0, 3, 4]
    x = torch.tensor(values).view(3, 1, 8, 8)
    torch.jit.script(module).save("scripted.pt")
    with torch.no_grad():
        logits = module.eval()(x).double().tolist()
    loss = torch.nn.functional.cross_entropy(module.train()(x), torch.tensor(labels))
    loss.backward()
    norms = {name: p.grad.double().norm().item() for name, p in module.named_parameters()}
    with open("scripted.json", "w") as file:
        json.dump({"values": values, "labels": labels, "logits": logits, "loss": loss.item(), "norms": norms,
                   "running_mean": module.norm.running_mean.double().tolist()}, file, indent=1)


def losses():
    student = [[((17 * n + 5 * j) % 23 - 11) * 0.4 for j in range(6)] for n in range(4)]
    teacher = [[((29 * n + 7 * j) % 31 - 15) * 0.6 for j in range(6)] for n in range(4)]
    labels, classes = [2, 0, 5, 2], [1, 0, 1, 0, 0, 1]
    y, t, present = torch.tensor(labels), torch.tensor(teacher), torch.tensor(classes, dtype=torch.bool)
    out = {"student": student, "teacher": teacher, "labels": labels, "classes": classes, "cases": []}
    # weight of cross-entropy, weight of distillation, temperature, masked
    for a, b, temperature, masked in [(1, 0, 1, False), (0, 1, 1, False), (0, 1, 3, False), (1, 1, 3, False),
                                      (0.25, 0.75, 0.5, False), (1, 0, 1, True), (0.5, 2, 4, True)]:
        z = torch.tensor(student, dtype=torch.float64, requires_grad=True)
        x = z.masked_fill(~present, 0) if masked else z
        kd = torch.nn.functional.kl_div(torch.log_softmax(z / temperature, 1), torch.softmax(t.double() / temperature, 1),
                                        reduction="batchmean") * temperature**2
        loss = a * torch.nn.functional.cross_entropy(x, y) + b * kd
        loss.backward()
        out["cases"].append({"cross_entropy": a, "distillation": b, "temperature": temperature, "masked": masked,
                             "loss": loss.item(), "gradient": z.grad.flatten().tolist()})
    with open("losses.json", "w") as file:
        json.dump(out, file, indent=1)


optimizers()
scripted()
losses()
