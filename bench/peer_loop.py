#!/usr/bin/env python3
"""A plain PyTorch loop that does what Espalier does in a workload, and nothing else: FedAvg without messages, checks or files.

    bench/peer_loop.py w1|w2|round [--processes 2] [--heap default|tuned] [--channels-last] [--rounds N]

w1 and w2 are bench/w1.toml and w2.toml (images normalized as Espalier does, evaluated as often); round is bench/round.toml: one step of
each of 100 clients on 1.2 M parameters. One thread per process, each with its share of a round's clients and of the test images; averages go
through shared memory. "tuned" is glibc's heap set as Espalier sets its own (base/heap.cpp): large blocks stay. Needs PyTorch, and the data
from `espalier data fetch` in $ESPALIER_DATA or ~/.cache/espalier/data. Prints one line of JSON; bench/peers.py compares.
"""
import argparse
import json
import os
import pathlib
import resource
import struct
import sys
import time

TUNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(64 << 20)}
parser = argparse.ArgumentParser()
parser.add_argument("workload", choices=["w1", "w2", "round"])
parser.add_argument("--processes", type=int, default=2)
parser.add_argument("--heap", choices=["default", "tuned"], default="default")
parser.add_argument("--channels-last", action="store_true")
parser.add_argument("--rounds", type=int)
arguments = parser.parse_args()
if arguments.heap == "tuned" and "MALLOC_TOP_PAD_" not in os.environ:  # glibc reads them once, at the start
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **TUNED})
started = time.time()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.multiprocessing as multiprocessing  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(1)
torch.manual_seed(1)
FOLDER = pathlib.Path(os.environ.get("ESPALIER_DATA", pathlib.Path.home() / ".cache/espalier/data"))


def mnist(part):
    def values(name, header):
        content = (FOLDER / "mnist" / name).read_bytes()
        return np.frombuffer(content, np.uint8, offset=header), struct.unpack(">I", content[4:8])[0]
    images, count = values(f"{part}-images-idx3-ubyte", 16)
    labels, _ = values(f"{part}-labels-idx1-ubyte", 8)
    x = torch.from_numpy(images.reshape(count, 1, 28, 28).copy()).float()
    return x.div_(255).sub_(0.1307).div_(0.3081), torch.from_numpy(labels.astype(np.int64))


def cifar10(names):
    rows = np.concatenate([np.frombuffer((FOLDER / "cifar10" / f"{name}.bin").read_bytes(), np.uint8).reshape(-1, 3073) for name in names])
    x = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy()).float()
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    return x.div_(255).sub_(mean).div_(deviation), torch.from_numpy(rows[:, 0].astype(np.int64))


if arguments.workload == "w1":
    train, test = mnist("train"), mnist("t10k")
    clients, per_round, rounds, eval_every, rate = 100, 10, 10, 1, 0.05
    def make():
        return nn.Sequential(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(),
                             nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10))
elif arguments.workload == "w2":
    train, test = cifar10([f"data_batch_{i}" for i in range(1, 6)]), cifar10(["test_batch"])
    clients, per_round, rounds, eval_every, rate = 1000, 50, 20, 10, 0.1
    def make():
        return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                             nn.Linear(12544, 128), nn.ReLU(), nn.Linear(128, 10))
else:
    train, test = (torch.randn(10000, 784), torch.randint(0, 10, (10000,))), (torch.randn(10, 784), torch.randint(0, 10, (10,)))
    clients, per_round, rounds, eval_every, rate = 1000, 100, 30, 0, 0.05
    def make():
        return nn.Sequential(nn.Linear(784, 1000), nn.ReLU(), nn.Linear(1000, 400), nn.ReLU(), nn.Linear(400, 10))

rounds = arguments.rounds or rounds
if arguments.channels_last and train[0].dim() == 4:
    train, test = ((x.contiguous(memory_format=torch.channels_last), y) for x, y in (train, test))
shares = torch.randperm(len(train[1])).view(clients, -1)
model = make()
if arguments.channels_last:
    model = model.to(memory_format=torch.channels_last)
weights = [p.detach().clone().share_memory_() for p in model.parameters()]  # the global model
sums = [[torch.zeros_like(w).share_memory_() for w in weights] for _ in range(arguments.processes)]


def load():
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights):
            parameter.copy_(value)


def train_clients(place, mine):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for total in sums[place]:
        total.zero_()
    for client in mine:
        load()
        order = shares[client][torch.randperm(shares.shape[1])]
        for begin in range(0, len(order), 10):
            batch = order[begin:begin + 10]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train[0][batch]), train[1][batch]).backward()
            optimizer.step()
        with torch.no_grad():
            for total, parameter in zip(sums[place], model.parameters()):
                total.add_(parameter, alpha=1 / per_round)


def evaluate(place):
    load()
    correct = 0
    with torch.no_grad():
        for begin in range(place * 100, len(test[1]), arguments.processes * 100):
            correct += int((model(test[0][begin:begin + 100]).argmax(1) == test[1][begin:begin + 100]).sum())
    return correct


def work(place, pipe):
    torch.set_num_threads(1)
    torch.manual_seed(1 + place)
    while (task := pipe.recv()) is not None:
        pipe.send(evaluate(place) if task == "evaluate" else train_clients(place, task))


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    pipes, children = [], []
    for place in range(1, arguments.processes):
        ours, theirs = fork.Pipe()
        children.append(fork.Process(target=work, args=(place, theirs), daemon=True))
        children[-1].start()
        pipes.append(ours)
    accuracy, round_seconds = 0.0, []
    for number in range(1, rounds + 1):
        begun = time.time()
        drawn = torch.randperm(clients)[:per_round].tolist()
        for place, pipe in enumerate(pipes, 1):
            pipe.send(drawn[place::arguments.processes])
        train_clients(0, drawn[0::arguments.processes])
        for pipe in pipes:
            pipe.recv()
        for i, value in enumerate(weights):
            torch.sum(torch.stack([part[i] for part in sums]), 0, out=value) if arguments.processes > 1 else value.copy_(sums[0][i])
        round_seconds.append(time.time() - begun)
        if eval_every and number % eval_every == 0:
            for pipe in pipes:
                pipe.send("evaluate")
            correct = evaluate(0) + sum(pipe.recv() for pipe in pipes)
            accuracy = correct / len(test[1])
    for pipe in pipes:
        pipe.send(None)
    for child in children:
        child.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (arguments.processes - 1)
    print(json.dumps({"wall_seconds": time.time() - started, "round_seconds": sorted(round_seconds)[len(round_seconds) // 2],
                      "peak_rss_bytes": peak * 1024, "accuracy": accuracy}))
