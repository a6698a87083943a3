"""A user's TorchScript module keeps PyTorch's meaning, fails before round 1 where it must, and in our words.

Modules are written and reference values computed by PyTorch; needs a Python that has it (77: there is none)."""
import json
import math
import os
import re
import subprocess
import sys
import typing

from common import Folder, check, metrics, ok, read_safetensors, run

try:
    import torch
except ImportError:
    if os.environ.get("TORCH_PYTHON") and not os.environ.get("IN_TORCH_PYTHON"):
        os.execve(os.environ["TORCH_PYTHON"], [os.environ["TORCH_PYTHON"], *sys.argv], {**os.environ, "IN_TORCH_PYTHON": "1"})
    print("skipped: no Python with torch was found by CMake")
    sys.exit(77)

from torch import nn
import torch.nn.functional as F

F32, I64 = torch.float32, torch.int64
CONFIG = """
rounds = 2
[data]
name = "safetensors"
[data.partition]
name = "iid"
clients = 5
[train]
lr = 0.1
batch_size = 16
[strategy]
clients_per_round = 3
"""


def save_tensors(path, tensors):
    names = {F32: "F32", I64: "I64"}
    header, body = {}, b""
    for name, value in tensors.items():
        raw = bytes(value.contiguous().numpy().tobytes())
        header[name] = {"dtype": names[value.dtype], "shape": list(value.shape), "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def blobs(count, shape=(8,), classes=3, seed=1):
    """Samples around one centre per class; the centres are the same for every seed."""
    centres = torch.randn(classes, *shape, generator=torch.Generator().manual_seed(99)) * 2
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return centres[labels] + torch.randn(count, *shape, generator=generator), labels


def data(folder, train=300, test=100, shape=(8,), name="data", **more):
    sets = {}
    for split, count, seed in (("train", train, 1), ("test", test, 2)):
        x, y = blobs(count, shape, seed=seed)
        sets[split] = (x, y)
        save_tensors(folder / name / f"{split}.safetensors", {"inputs": x, "labels": y, **(more if split == "train" else {})})
    return sets


def tokens(folder, vocabulary, name="tokens", length=6):
    for split, count, seed in (("train", 200, 1), ("test", 50, 2)):
        x = torch.randint(0, vocabulary, (count, length), generator=torch.Generator().manual_seed(seed))
        x[0, 0] = vocabulary - 1
        save_tensors(folder / name / f"{split}.safetensors", {"inputs": x, "labels": x[:, 0] % 3})


def tensors(path):
    """Values of a safetensors file as torch tensors by name."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    types = {"F32": F32, "I64": I64}
    return {name: torch.frombuffer(bytearray(raw[8 + size + t["data_offsets"][0] : 8 + size + t["data_offsets"][1]] or b"\0" * 8), dtype=types[t["dtype"]])
            [: math.prod(t["shape"])].reshape(t["shape"]) for name, t in header.items()}


class Case:
    """A folder with data and a configuration; module(m) scripts and saves m, simulate() runs it."""

    def __init__(self, folder):
        self.folder, self.runs = folder, 0
        (folder / "base.toml").write_text(CONFIG)

    def module(self, module, name="net.pt"):
        torch.jit.script(module).save(str(self.folder / name))
        return name

    def simulate(self, *settings, out=None, file="net.pt", data="data", threads=1, model="torchscript", extra=()):
        self.runs += 1
        self.last = self.folder / (out or f"run{self.runs}")
        words = [f"data.root={self.folder / data}", f"model.name={model}", *settings]
        if model == "torchscript":
            words.append(f"model.file={self.folder / file}")
        return run("simulate", self.folder / "base.toml", "--threads", threads, "--out", self.last,
                   *[w for s in words for w in ("--set", s)], *extra)

    def trained(self, *settings, **more):
        result = ok(self.simulate(*settings, **more))
        return tensors(self.last / "model.safetensors"), result

    def refused(self, *expected, settings=(), **more):
        result = self.simulate(*settings, **more)
        one_line(result, *expected)
        check(not self.last.exists(), f"refused before anything is written: {result.stderr}")
        return result.stderr


def one_line(result, *expected):
    lines = result.stderr.strip().splitlines()
    check(result.returncode == 2 and len(lines) == 1, f"{result.args}: one line and exit 2, got {result.returncode}: {result.stderr}")
    for text in expected:
        check(text in lines[0], f"expected '{text}' in '{lines[0]}'")
    for text in ("Traceback", "interpreter", "RuntimeError", "Exception raised", "c10", "at::", "mat1"):
        check(text not in lines[0], f"the interpreter's words '{text}' in '{lines[0]}'")


def sgd(module, x, y, rounds, lr=0.1, weight_decay=0.0, pick=lambda out: out):
    """What PyTorch makes of one client with one batch: one step a round."""
    module.train()
    parameters = list(module.parameters())
    for _ in range(rounds):
        for p in parameters:
            p.grad = None
        F.cross_entropy(pick(module(x)), y).backward()
        torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay).step()
    return module


ONE = ["data.partition.clients=1", "strategy.clients_per_round=1", "train.batch_size=300", "rounds=3"]


def near(found, wanted, what, tolerance=2e-5):
    check(found.shape == wanted.shape and (found - wanted).abs().max() <= tolerance, f"{what}: {found} and PyTorch's {wanted}")


class TwoLayers(nn.Module):
    def __init__(self, inputs=8, hidden=16, classes=3):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, hidden), nn.Linear(hidden, classes)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


class Detached(TwoLayers):
    def forward(self, x):
        with torch.no_grad():
            h = torch.relu(self.fc1(x))
        return self.fc2(h)


class Half(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        return F.linear(x, self.weight)


class Tied(nn.Module):
    """One tensor under the names of two submodules, and a submodule that stands in two places."""

    def __init__(self):
        super().__init__()
        shared = nn.Parameter(torch.randn(8, 8) / 3)
        self.first, self.second = Half(shared), Half(shared)
        self.norm = nn.BatchNorm1d(8)
        self.again = self.norm
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(torch.relu(self.again(self.second(torch.relu(self.norm(self.first(x)))))))


class Language(nn.Module):
    """Embedding and output are one tensor; a mask of -inf, positions and dropout."""

    def __init__(self):
        super().__init__()
        self.embed, self.position = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.register_buffer("causal", torch.full((6, 6), -math.inf).triu(1))
        self.register_buffer("places", torch.arange(6))
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(self.layer(self.embed(x) + self.position(self.places), self.causal)[:, -1])


class Pair(TwoLayers):
    def forward(self, x):
        h = torch.relu(self.fc1(x))
        return self.fc2(h), h


class Named(TwoLayers):
    def forward(self, x) -> typing.Dict[str, torch.Tensor]:
        h = torch.relu(self.fc1(x))
        return {"hidden": h, "logits": self.fc2(h)}


class Drops(TwoLayers):
    """Every kind of draw; F.dropout without `training` draws in evaluation, too."""

    def forward(self, x):
        if self.training:
            x = x + 0.1 * torch.randn_like(x) + 0.05 * torch.rand(x.size(0), 1)
            x = x[torch.randperm(x.size(0))] * 0.1 + x
        h = F.dropout(torch.relu(self.fc1(x)), 0.5, self.training)
        h = h + 0.01 * torch.bernoulli(torch.full_like(h, 0.5))
        noise = torch.multinomial(torch.ones(16), 1).to(torch.float32)
        return self.fc2(F.dropout(h, 0.1) + 0.001 * noise)


class Buffers(TwoLayers):
    """Buffers assigned and written in place, integer and floating, beside those that never change."""

    def __init__(self):
        super().__init__()
        self.register_buffer("ema", torch.zeros(8))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen32", torch.zeros((), dtype=torch.int32))
        self.register_buffer("wide", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mask", torch.full((8,), -math.inf).masked_fill(torch.arange(8) < 4, 0.0))
        self.register_buffer("table", torch.tensor([2**40 + 1, -5]))
        self.register_buffer("open", torch.ones(8, dtype=torch.bool))
        self.register_buffer("constant", torch.full((8,), 2.0), persistent=False)

    def forward(self, x):
        if self.training:
            self.ema = 0.9 * self.ema + 0.1 * x.mean(0).detach()
            self.steps.add_(1)
            self.seen32 += x.size(0)
            self.wide.add_(0.5)
        x = torch.where(self.open & (torch.exp(self.mask) > 0), x, x * 0.5) * self.constant / 2
        return self.fc2(torch.relu(self.fc1(x - self.ema))) + 0 * self.table[1]


class Counting(TwoLayers):
    """State that is no tensor: it lasts for a fit and no longer."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.fc2(torch.relu(self.fc1(x))) / float(1 + self.calls)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.norm(x))


class BareNorm(Normed):
    """Without PyTorch's own check: one sample makes the running variance infinite."""

    def forward(self, x):
        return self.out(torch.batch_norm(x, self.norm.weight, self.norm.bias, self.norm.running_mean, self.norm.running_var, self.training, 0.1, 1e-5, False))


def frozen(case, sets):
    x, y = sets["train"]
    net = TwoLayers()
    net.fc1.requires_grad_(False)
    case.module(net)
    found, result = case.trained(*ONE, "train.weight_decay=0.01")
    check("frozen" in result.stderr and "fc1.weight" in result.stderr, f"a note names frozen parameters: {result.stderr}")
    wanted = sgd(net, x, y, 3, weight_decay=0.01).state_dict()
    check(set(found) == set(wanted), f"names: {set(found)}")
    for name, value in wanted.items():
        near(found[name], value, f"frozen, {name}")
        if name.startswith("fc1"):
            check(torch.equal(found[name], value), f"{name} keeps every bit")
    # On the wire: only fc2. (Adam with its decay, several clients.)
    light, _ = case.trained("train.optimizer=adamw", "train.weight_decay=0.1")
    check(torch.equal(light["fc1.weight"], wanted["fc1.weight"]) and not torch.equal(light["fc2.weight"], wanted["fc2.weight"]), "adamw")
    cost = metrics(case.last)[0]
    case.module(TwoLayers(), "free.pt")
    case.trained("train.optimizer=adamw", "train.weight_decay=0.1", file="free.pt")
    full = metrics(case.last)[0]
    for key in ("bytes_up", "bytes_down"):
        saved = (full[key] - cost[key]) / 3
        check(4 * (16 * 8 + 16) * 0.95 <= saved <= 4 * (16 * 8 + 16) * 1.3 + 100, f"{key}: {cost[key]} frozen, {full[key]} not")
    # All doors take the run; exported, fc1 is as it was and still frozen.
    frozen_run = case.folder / "frozen"
    case.trained(*ONE, out="frozen")
    ok(run("evaluate", frozen_run, "--json"))
    ok(run("export", frozen_run, "--out", case.folder / "frozen.pt"))
    exported = torch.jit.load(str(case.folder / "frozen.pt"))
    check([p.requires_grad for _, p in sorted(exported.named_parameters())] == [False, False, True, True], "exported: still frozen")
    check(torch.equal(exported.fc1.weight, net.fc1.weight), "exported: the same values")
    # A file of weights may repeat what is frozen, not change it.
    state = {k: v.clone() for k, v in tensors(frozen_run / "model.safetensors").items()}
    save_tensors(case.folder / "init/same.safetensors", state)
    case.trained(f"model.init={case.folder / 'init/same.safetensors'}")
    state["fc1.bias"] += 1
    save_tensors(case.folder / "init/other.safetensors", state)
    case.refused("fc1.bias", "requires_grad", settings=[f"model.init={case.folder / 'init/other.safetensors'}"])
    case.refused("fc1: all units stay", "'fc1.weight' is frozen", settings=["submodel.name=ordered", "submodel.keep=0.5"])
    # Frozen in other ways: nothing requires a gradient, or none arrives.
    detached = Detached()
    case.module(detached)
    found, _ = case.trained(*ONE, "train.weight_decay=0.05", "train.momentum=0.5")
    check(torch.equal(found["fc1.weight"], detached.fc1.weight), "no gradient, no decay: as PyTorch's optimizers do it")
    case.module(TwoLayers().requires_grad_(False))
    case.refused("frozen", "requires_grad")


def tied(case, sets):
    x, y = sets["train"]
    net = Tied()
    case.module(net)
    found, _ = case.trained(*ONE)
    wanted = sgd(net, x, y, 3).state_dict()
    check("second.weight" not in found and "again.weight" not in found, f"one tensor, one name: {list(found)}")
    for name, value in found.items():
        near(value.to(torch.float64), wanted[name].to(torch.float64), f"tied, {name}")
    evaluated = json.loads(ok(run("evaluate", case.last, "--json")).stdout)
    ok(run("export", case.last, "--out", case.folder / "tied.pt"))
    exported = torch.jit.load(str(case.folder / "tied.pt"))
    check(exported.first.weight.data_ptr() == exported.second.weight.data_ptr(), "exported: still tied")
    check(torch.equal(exported.norm.running_mean, exported.again.running_mean), "exported: the shared norm")
    xt, yt = sets["test"]
    with torch.no_grad():
        near(exported(xt), net.eval()(xt), "exported logits")
        check(abs((exported(xt).argmax(1) == yt).double().mean() - evaluated["accuracy"]) < 1e-9, "exported and evaluated agree")
    tokens(case.folder, 11)
    case.module(Language(), "language.pt")
    saved = set()
    for threads in (1, 2):
        case.trained("rounds=3", file="language.pt", data="tokens", threads=threads)
        saved.add((case.last / "model.safetensors").read_bytes())
    check(len(saved) == 1, "a language model: the same bytes with two threads")
    ok(run("export", case.last, "--out", case.folder / "language2.pt"))
    exported = torch.jit.load(str(case.folder / "language2.pt"))
    check(exported.out.weight.data_ptr() == exported.embed.weight.data_ptr() and torch.isinf(exported.causal).sum() == 15, "exported: tied, masked")
    case.module(net)
    # Several clients and rounds keep the tie; a file with both names must agree with itself.
    case.trained("rounds=3")
    ok(run("export", case.last, "--out", case.folder / "tied2.pt"))
    exported = torch.jit.load(str(case.folder / "tied2.pt"))
    check(torch.equal(exported.first.weight, exported.second.weight), "tied after rounds")
    state = {k: v.to(I64 if v.dtype == I64 else F32) for k, v in exported.state_dict().items()}
    save_tensors(case.folder / "init/tied.safetensors", state)
    case.trained(f"model.init={case.folder / 'init/tied.safetensors'}")
    state["second.weight"] = state["second.weight"] + 1
    save_tensors(case.folder / "init/untied.safetensors", state)
    case.refused("second.weight", "one tensor", settings=[f"model.init={case.folder / 'init/untied.safetensors'}"])


def outputs(case, sets):
    x, y = sets["train"]
    case.module(Pair())
    case.refused("model.output", "FedGKT")
    one_line(run("evaluate", case.folder / "frozen", "--set", f"model.file={case.folder / 'net.pt'}"), "not the file that the run began with")
    for net, setting, pick in ((Pair(), "0", lambda out: out[0]), (Named(), "logits", lambda out: out["logits"])):
        case.module(net)
        if setting == "logits":
            case.refused("model.output", '"logits"', '"hidden"')
            case.refused('"logit"', '"logits"', settings=['model.output="logit"'])
        found, _ = case.trained(*ONE, f"model.output={setting}")
        wanted = sgd(net, x, y, 3, pick=pick).state_dict()
        for name, value in found.items():
            near(value, wanted[name], f"output {setting}, {name}")
        accuracy = json.loads(ok(run("evaluate", case.last, "--json")).stdout)["accuracy"]
        ok(run("export", case.last, "--out", case.folder / "part.pt"))
        extra = {"espalier.json": ""}
        exported = torch.jit.load(str(case.folder / "part.pt"), _extra_files=extra)
        check(json.loads(extra["espalier.json"])["output"] == setting, "the file says which part the logits are")
        xt, yt = sets["test"]
        with torch.no_grad():
            near(pick(exported(xt)), pick(net.eval()(xt)), "exported logits")
            check(abs((pick(exported(xt)).argmax(1) == yt).double().mean() - accuracy) < 1e-9, "exported and evaluated agree")
    case.module(TwoLayers())
    case.refused("one tensor", settings=['model.output="0"'])


def randomness(case):
    case.module(Drops())
    bytes_of = lambda: (case.last / "model.safetensors").read_bytes()
    models, losses = {}, {}
    for name, threads, seed in (("one", 1, 7), ("again", 1, 7), ("two", 2, 7), ("four", 4, 7), ("other", 2, 8)):
        case.trained("rounds=4", f"seed={seed}", threads=threads, out=f"drop-{name}")
        models[name] = {k: v for k, v in tensors(case.last / "model.safetensors").items()}
        losses[name] = [line["loss"] for line in metrics(case.last)]
        models[name + "-bytes"] = bytes_of()
    for name in ("again", "two", "four"):
        check(models["one-bytes"] == models[name + "-bytes"] and losses["one"] == losses[name], f"the same seed, the same bytes: {name}")
    check(models["one-bytes"] != models["other-bytes"], "another seed draws otherwise")
    # Killed and resumed: the same end.
    case.trained("rounds=2", "seed=7", threads=2, out="drop-short")
    ok(run("simulate", "--resume", case.last, "--set", "rounds=4", "--threads", 2))
    check(bytes_of() == models["one-bytes"], "resumed")
    losses = {json.loads(ok(run("evaluate", case.last, "--json")).stdout)["loss"] for _ in range(2)}
    check(len(losses) == 1, f"evaluation draws the same: {losses}")
    # Half of the units are really dropped: the loss of a net that is dropped everything of is ln 3.
    class All(TwoLayers):
        def forward(self, x):
            return F.dropout(self.fc2(torch.relu(self.fc1(x))), 1.0, self.training)
    case.module(All())
    case.trained("rounds=1")
    check(abs(metrics(case.last)[0]["train_loss"] - math.log(3)) < 1e-6, "dropout of everything")
    class Stacked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.gru, self.out = nn.Embedding(11, 6), nn.GRU(6, 8, 2, batch_first=True, dropout=0.4), nn.Linear(8, 3)

        def forward(self, x):
            return self.out(self.gru(self.embed(x))[0][:, -1])
    tokens(case.folder, 11)
    case.module(Stacked())
    saved = set()
    for threads in (1, 2):
        case.trained(data="tokens", threads=threads)
        saved.add(bytes_of())
    check(len(saved) == 1, "dropout between recurrent layers")


def buffers(case, sets):
    x, y = sets["train"]
    net = Buffers()
    case.module(net)
    found, _ = case.trained(*ONE)
    wanted = sgd(net, x, y, 3).state_dict()
    for name in ("ema", "steps", "seen32", "wide", "fc1.weight", "fc2.bias", "mask", "open"):
        near(torch.nan_to_num(found[name].to(torch.float64)), torch.nan_to_num(wanted[name].to(torch.float64)), f"buffers, {name}", 1e-4)
    check(found["steps"] == 3 and found["seen32"] == 900 and torch.isinf(found["mask"]).sum() == 4, f"{found}")
    ok(run("export", case.last, "--out", case.folder / "buffers.pt"))
    exported = torch.jit.load(str(case.folder / "buffers.pt"))
    check(exported.table[0].item() == 2**40 + 1 and exported.open.dtype == torch.bool and exported.seen32.dtype == torch.int32, "exported: types and values")
    with torch.no_grad():
        near(exported(x), net.eval()(x), "exported logits", 1e-4)
    # What never changes is not sent: the same bytes as without.
    case.trained("rounds=1")
    with_constants = metrics(case.last)[0]["bytes_up"]
    class Fewer(Buffers):
        def __init__(self):
            super().__init__()
            self.table = torch.zeros(20000, dtype=torch.int64)
    case.module(Fewer())
    case.trained("rounds=1")
    check(metrics(case.last)[0]["bytes_up"] == with_constants, "constant buffers cost nothing")
    # Other state begins anew with every task, whichever thread runs it.
    case.module(Counting())
    saved = set()
    for threads in (1, 2, 3):
        case.trained("rounds=3", "strategy.clients_per_round=5", threads=threads)
        saved.add((case.last / "model.safetensors").read_bytes())
    check(len(saved) == 1, "a counter that is no tensor")


def last_batches(case):
    owners = torch.tensor([0] * 33 + [1] * 33 + [2] * 33 + [3] * 40)
    data(case.folder, train=139, name="owned", client=owners)
    owned = ["data.partition.name=natural", "data.partition.clients=0", "strategy.clients_per_round=4"]
    for net, words in ((Normed(), "more than 1 value"), (BareNorm(), "running_var")):
        case.module(net)
        message = case.refused("clients 0, 1 and 2", "33 samples", "1 sample", "train.drop_last = true", words, settings=owned, data="owned")
        case.trained(*owned, "train.drop_last=true", data="owned")
        check(all(line["clients_failed"] == 0 for line in metrics(case.last)), "with drop_last all train")
        case.trained(*owned, "train.batch_size=11", data="owned")
    # 32 of 33 samples, 2 steps instead of 3: products and nothing else, for every model and engine.
    for model in ("mlp", "torchscript"):
        case.module(TwoLayers())
        macs = []
        for drop in ("false", "true"):
            case.trained(*owned, f"train.drop_last={drop}", "rounds=1", data="owned", model=model)
            macs.append(metrics(case.last)[0]["macs"])
        check(macs[1] * 139 == macs[0] * 128, f"{model}: {macs}")
    # No batch at all: which clients, and what to do.
    case.module(TwoLayers())
    for model in ("mlp", "torchscript"):
        case.refused("train.drop_last", "clients 0, 1 and 2", "train.batch_size to 33", settings=[*owned, "train.drop_last=true", "train.batch_size=36"], data="owned", model=model)
    # The built-in nets do one sample as before.
    data(case.folder, train=132, shape=(1, 8, 8), name="images", client=torch.arange(132) // 33)
    case.trained(*owned, "model.width=0.25", "rounds=1", data="images", model="resnet8")
    check(metrics(case.last)[0]["clients_failed"] == 0, "resnet8")
    # A client whose only batch is too small cannot be helped by drop_last alone.
    data(case.folder, train=49, name="single", client=torch.tensor([0] + [1] * 48))
    case.module(Normed())
    case.refused("client 0", "1 sample", "whole batch", settings=["data.partition.name=natural", "data.partition.clients=0", "strategy.clients_per_round=2"], data="single")


def lasting_failures(case):
    class Picky(TwoLayers):
        def forward(self, x):
            if self.training:
                if float(x.max()) > 1000.0:
                    raise ValueError("values of more than 1000")
            return self.fc2(torch.relu(self.fc1(x)))
    case.module(Picky())
    x, y = blobs(160)
    for bad, name in (((1, 2, 3), "mostly"), ((3,), "one")):
        wild = x.clone()
        for client in bad:
            wild[40 * client : 40 * client + 40, 0] = 5000
        for split in ("train", "test"):
            save_tensors(case.folder / name / f"{split}.safetensors", {"inputs": wild, "labels": y, "client": torch.arange(160) // 40})
    owned = ["data.partition.name=natural", "data.partition.clients=0", "strategy.clients_per_round=4", "rounds=4"]
    result = case.simulate(*owned, data="mostly")
    check(result.returncode == 2, f"three of four clients fail in every round: {result}")
    last = result.stderr.strip().splitlines()[-1]
    check("3 of 4 clients (clients 1, 2 and 3)" in last and "values of more than 1000" in last, last)
    _, result = case.trained(*owned, data="one")
    check("client 3 failed in each of 2 rounds" in result.stderr + result.stdout, f"one of four is named: {result}")


def does_not_fit(case):
    case.module(TwoLayers().double())
    case.refused("float64", "model.float()", "torch.jit.script")
    case.module(TwoLayers().half())
    case.refused("float16", "model.float()")
    case.module(TwoLayers(inputs=10))
    message = case.refused("[8]", "[16, 10]")
    loud = run("simulate", case.folder / "base.toml", "--out", case.folder / "never", "--verbose", "--set", f"data.root={case.folder / 'data'}",
               "--set", "model.name=torchscript", "--set", f"model.file={case.folder / 'net.pt'}")
    check(loud.returncode == 2 and loud.stderr.startswith(message) and "shapes cannot be multiplied" in loud.stderr, f"--verbose: {loud.stderr}")
    class Image(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv, self.out = nn.Conv2d(channels, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.conv(x).mean([2, 3]))
    case.module(Image(1))
    case.refused("[8]")  # a rank
    case.module(Image(3))
    case.refused("[1, 8, 8]", data="images")  # channels
    case.module(TwoLayers(classes=2))
    case.refused("3", "[1, 2]", "outputs")
    class Words(nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.embed, self.out = nn.Embedding(rows, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.embed(x).mean(1))
    tokens(case.folder, 11)
    case.module(Words(9))
    case.refused("token 10", "11 rows", data="tokens")
    case.module(Words(11))
    case.trained(data="tokens")
    case.refused("float32 samples")  # tokens where the data has numbers
    case.module(TwoLayers())
    case.refused("token ids", data="tokens")
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(8, 3)

        def forward(self, x, mask):
            return self.out(x * mask)
    case.module(Two())
    case.refused("forward(x, mask)")
    class Squeezed(TwoLayers):
        def forward(self, x):
            return self.fc2(torch.relu(self.fc1(x))).squeeze(0)
    case.module(Squeezed())
    case.refused("one row of logits")
    class Cut(TwoLayers):
        def forward(self, x):
            return self.fc2(torch.relu(self.fc1(x))).detach() + 0.0
    case.module(Cut())
    case.refused("no parameter that can be trained")


def doors(case, sets):
    case.module(TwoLayers(classes=5))
    case.trained()
    accuracy = json.loads(ok(run("evaluate", case.last, "--json")).stdout)["accuracy"]
    for runtime in ("dense", "pruned"):
        ok(run("evaluate", case.last, "--runtime", runtime))
        ok(run("export", case.last, "--out", case.folder / "five.pt", "--runtime", runtime))
    x, y = sets["test"]
    with torch.no_grad():
        logits = torch.jit.load(str(case.folder / "five.pt"))(x)
    check(logits.shape == (100, 5) and abs((logits.argmax(1) == y).double().mean() - accuracy) < 1e-9, "five logits for three classes")

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.out = nn.GRU(2, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x):
            return self.out(self.gru(x.reshape(-1, 4, 2))[0][:, -1])

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = nn.TransformerEncoderLayer(2, 1, 8, dropout=0.1, batch_first=True), nn.Linear(2, 3)

        def forward(self, x):
            return self.out(self.layer(x.reshape(-1, 4, 2)).mean(1))

    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm, self.out = nn.Linear(8, 8), nn.GroupNorm(2, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.out(torch.relu(self.norm(self.fc(x))))
    cases = {"logistic": None, "gru": Recurrent(), "transformer": Attention(), "groupnorm": Grouped()}
    for name, net in cases.items():
        if net is None:
            case.trained("model.hidden=[]", model="mlp", out=name)
        else:
            case.module(net, f"{name}.pt")
            case.trained(file=f"{name}.pt", out=name)
        result = ok(run("export", case.last, "--out", case.folder / f"{name}.out.pt", "--json"))
        note = json.loads(result.stdout).get("note", "")
        check("dense" in note or "every unit" in note, f"{name}: a note says that it is dense: {result.stdout}")
        check((case.folder / f"{name}.out.pt").exists(), name)
        exported = torch.jit.load(str(case.folder / f"{name}.out.pt"))
        accuracy = json.loads(ok(run("evaluate", case.last, "--json")).stdout)["accuracy"]
        with torch.no_grad():
            check(abs((exported(x).argmax(1) == y).double().mean() - accuracy) < 1e-9, f"{name}: exported and evaluated agree")
        # submodel refuses what has no units, with the reason that export gives.
        refused = run("export", case.last, "--out", case.folder / "never.pt", "--runtime", "pruned")
        if refused.returncode == 0:
            continue
        why = re.search(r"\((.*)\)", refused.stderr)
        check(why is not None, f"{name}: {refused.stderr}")
        settings = ["submodel.name=ordered", "submodel.keep=0.5", *(["model.hidden=[]"] if net is None else [])]
        case.refused(why.group(1), settings=settings, file=f"{name}.pt", model="mlp" if net is None else "torchscript")


def wrong_files(case):
    folder = case.folder
    way_out = "torch.jit.script(model).save("
    net = TwoLayers()
    torch.save(net.state_dict(), folder / "state.pt")
    torch.save(nn.Sequential(nn.Linear(8, 3)), folder / "pickled.pt")
    torch.save(net.state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    for name in ("state.pt", "pickled.pt", "legacy.pt"):
        case.refused("torch.save", way_out, file=name)
    (folder / "net.onnx").write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x061.13.0" + bytes(50))
    case.refused("ONNX", way_out, file="net.onnx")
    case.module(net)
    whole = (folder / "net.pt").read_bytes()
    (folder / "cut.pt").write_bytes(whole[: len(whole) // 2])
    case.refused("damaged", file="cut.pt")
    (folder / "flipped.pt").write_bytes(whole.replace(b"__torch__", b"__tarch__", 1))
    result = case.simulate(file="flipped.pt")
    if result.returncode != 0:
        one_line(result)
    (folder / "empty.pt").write_bytes(b"")
    case.refused("empty", way_out, file="empty.pt")
    (folder / "text.pt").write_text("import torch\n")
    case.refused(way_out, file="text.pt")
    (folder / "a_folder").mkdir()
    case.refused("folder", way_out, file="a_folder")
    save_tensors(folder / "weights.safetensors", net.state_dict())
    case.refused("safetensors", way_out, file="weights.safetensors")
    case.refused("torch.save", "save_file", settings=[f"model.init={folder / 'state.pt'}"])


def notes(case):
    for end, words in ((nn.Softmax(1), "a softmax"), (nn.LogSoftmax(1), "a log_softmax")):
        case.module(nn.Sequential(TwoLayers(), end))
        _, result = case.trained()
        lines = [line for line in result.stderr.splitlines() if "[model]" in line]
        check(len(lines) == 1 and words in lines[0], f"a note of {words}: {result.stderr}")
    case.module(TwoLayers())
    _, result = case.trained()
    check("[model]" not in result.stderr, f"nothing to say of logits: {result.stderr}")


torch.manual_seed(5)
with Folder() as folder:
    case = Case(folder)
    sets = data(folder)
    frozen(case, sets)
    tied(case, sets)
    outputs(case, sets)
    randomness(case)
    buffers(case, sets)
    last_batches(case)
    lasting_failures(case)
    does_not_fit(case)
    doors(case, sets)
    wrong_files(case)
    notes(case)
print("1 passed, 0 failed")
