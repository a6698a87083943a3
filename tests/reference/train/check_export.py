#!/usr/bin/env python3
"""Runs the TorchScript files that Espalier exported and compares names and logits; PyTorch alone, nothing of Espalier.

python3 check_export.py FOLDER: beside every <case>.pt there is a <case>.json with the batch and what must be found.
"""
import json
import pathlib
import sys

import torch

cases = sorted(pathlib.Path(sys.argv[1]).glob("*.pt"))
if not cases:
    sys.exit("no files to check")
for path in cases:
    case = json.loads(path.with_suffix(".json").read_text())
    extra = {"espalier.json": ""}
    module = torch.jit.load(str(path), _extra_files=extra)
    about = json.loads(extra["espalier.json"])
    found = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    if found != case["tensors"]:
        sys.exit(f"{path.name}: state_dict has {found}, expected {case['tensors']}")
    if module.training or not all(p.requires_grad for p in module.parameters()):
        sys.exit(f"{path.name}: expected evaluation mode and trainable parameters")
    if about["model"] != case["model"] or about["num_classes"] != case["classes"]:
        sys.exit(f"{path.name}: espalier.json says {about}")
    if "pixels" in case:
        x = torch.tensor(case["pixels"], dtype=torch.float32).reshape(case["shape"]).permute(0, 3, 1, 2)
        mean, deviation = (torch.tensor(about["normalization"][key]).reshape(1, -1, 1, 1) for key in ("mean", "stddev"))
        x = (x / 255 - mean) / deviation
    elif case["tokens"]:
        x = torch.tensor(case["tokens"]).reshape(case["shape"])
    else:
        x = torch.tensor(case["values"]).reshape(case["shape"])
    if list(x.shape[1:]) != about["sample_shape"]:
        sys.exit(f"{path.name}: espalier.json names samples of {about['sample_shape']}")
    with torch.no_grad():
        logits = module(x)
    expected = torch.tensor(case["logits"]).reshape(len(x), -1)
    if logits.shape != expected.shape:
        sys.exit(f"{path.name}: logits of shape {list(logits.shape)}, expected {list(expected.shape)}")
    worst = (logits - expected).abs().max().item()
    print(f"{path.stem}: largest difference {worst:.2e} of logits with deviation {expected.std(0).mean().item():.2e}")
    if expected.std(0).mean() < 1e-3:
        sys.exit(f"{path.name}: all samples have the same logits, which tests nothing")
    if not worst <= 1e-5 * max(1.0, expected.abs().max().item()):
        sys.exit(f"{path.name}: logits differ")
    # The file can be trained further.
    module.train()
    module(x).sum().backward()
    if not all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters()):
        sys.exit(f"{path.name}: no gradients")
