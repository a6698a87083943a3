"""A run depends on nothing outside its folder unseen, its folder has one writer, and what cannot work or has no effect is said before it is paid."""
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np

from common import ESPALIER, SMALL, Folder, check, metrics, ok, read_safetensors, run

TYPES = {"float32": "F32", "int64": "I64", "uint8": "U8"}


def write(path, **tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    header, body = {}, b""
    for name, value in tensors.items():
        data = np.ascontiguousarray(value).tobytes()
        header[name] = {"dtype": TYPES[str(value.dtype)], "shape": value.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)


def samples(count, shape, seed, classes=3):
    """Around one centre per class, the same for every seed."""
    centres = np.random.default_rng(5).normal(size=(classes, *shape)) * 2
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return (centres[labels] + rng.normal(size=(count, *shape))).astype(np.float32), labels.astype(np.int64)


def tables(folder, scale=1.0, shift=0.0, seed=1):
    for part, count in (("train", 300), ("test", 100)):
        x, y = samples(count, (8,), seed + (part == "test"))
        write(folder / f"{part}.safetensors", inputs=(x * scale + shift).astype(np.float32), labels=y)


def pictures(folder, dim=1, count=300):
    for part, n, seed in (("train", count, 1), ("test", 100, 2)):
        x, y = samples(n, (1, 12, 12), seed)
        pixels = np.clip(x * 20 + 128, 0, 255).astype(np.uint8)
        write(folder / f"{part}.safetensors", inputs=pixels // (dim if part == "train" else 1), labels=y)


OWN = """
rounds = 2
[data]
name = "safetensors"
[data.partition]
clients = 5
[model]
name = "mlp"
hidden = [16]
[train]
lr = 0.1
batch_size = 16
[strategy]
clients_per_round = 3
"""


def refused(result, *texts, code=2):
    lines = result.stderr.strip().splitlines()
    check(result.returncode == code and len(lines) == 1, f"{result.args}: exit {result.returncode}, {lines}")
    for text in texts:
        check(text in lines[0], f"{result.args}: expected '{text}' in '{lines[0]}'")


def settings(*pairs):
    return [word for pair in pairs for word in ("--set", pair)]


def depends_on_nothing_outside(folder):
    config = folder / "own.toml"
    config.write_text(OWN)
    tables(folder / "data")

    # A relative folder of data means the same from anywhere.
    ok(run("simulate", "own.toml", *settings("data.root=data"), "--out", "relative", "--quiet", cwd=folder))
    ok(run("simulate", "--resume", folder / "relative", *settings("rounds=3"), "--quiet", cwd="/"))
    check(len(metrics(folder / "relative")) == 3, "resumed from another folder")

    # One of the usual places is written down: another folder's ./data is another one.
    (folder / "usual").mkdir()
    shutil.copytree(folder / "data", folder / "usual/data/safetensors")
    ok(run("simulate", "../own.toml", "--out", "usual", "--quiet", cwd=folder / "usual"))
    ok(run("simulate", "--resume", folder / "usual/usual", *settings("rounds=3"), "--quiet", cwd="/"))

    # Other data are other data, whatever they are called; the same data may move.
    kept = json.loads((folder / "relative/data.json").read_text())
    check(kept["train"]["samples"] == 300 and kept["test"]["samples"] == 100, f"data.json: {kept}")
    shutil.move(folder / "data", folder / "moved")
    refused(run("simulate", "--resume", folder / "relative", *settings("rounds=4")), "train.safetensors", "data.root")
    ok(run("simulate", "--resume", folder / "relative", *settings("rounds=4", f"data.root={folder}/moved"), "--quiet"))
    tables(folder / "data", scale=-1)
    before = (folder / "relative/clients.json").read_bytes()
    refused(run("simulate", "--resume", folder / "relative", *settings("rounds=5", f"data.root={folder}/data")),
            "300 training samples have other contents", str(folder / "data"))
    tables(folder / "shorter")
    x, y = samples(90, (8,), 2)
    write(folder / "shorter/test.safetensors", inputs=x, labels=y)
    refused(run("simulate", "--resume", folder / "relative", *settings("rounds=5", f"data.root={folder}/shorter")), "90 test samples instead of 100")
    check((folder / "relative/clients.json").read_bytes() == before and len(metrics(folder / "relative")) == 4, "a refusal writes nothing")
    noted = ok(run("evaluate", folder / "relative", *settings(f"data.root={folder}/shorter"), "--json"))
    check("90 test samples instead of 100" in noted.stderr and json.loads(noted.stdout)["samples"] == 90, f"evaluate says so: {noted}")

    # Which key is another one.
    refused(run("simulate", "--resume", folder / "relative", *settings("rounds=5", f"data.root={folder}/moved", "train.lr=0.2")), "train.lr was 0.1", "is 0.2")
    refused(run("simulate", "--resume", folder / "relative", *settings("rounds=2", f"data.root={folder}/moved")), "completed 4 rounds")

    # Initial weights are kept with the run.
    shutil.copy(folder / "relative/model.safetensors", folder / "start.safetensors")
    one = ["simulate", config, *settings(f"data.root={folder}/moved", f"model.init={folder}/start.safetensors")]
    ok(run(*one, "--out", folder / "begun", "--quiet"))
    os.remove(folder / "start.safetensors")
    ok(run("simulate", "--resume", folder / "begun", *settings("rounds=3"), "--quiet"))
    ok(run("evaluate", folder / "begun"))

    # A model carries the normalization it was trained with.
    pictures(folder / "photos")
    pictures(folder / "clinic", dim=4, count=50)
    ok(run("simulate", config, *settings(f"data.root={folder}/photos", "model.name=cnn", "model.fc_units=16", "rounds=3", "train.lr=0.05"),
           "--out", folder / "cnn", "--quiet"))
    here = json.loads(ok(run("evaluate", folder / "cnn", "--json")).stdout)
    there = json.loads(ok(run("evaluate", folder / "cnn", *settings(f"data.root={folder}/clinic"), "--json")).stdout)
    alone = json.loads(ok(run("evaluate", folder / "cnn", "--data", folder / "clinic/test.safetensors", "--json")).stdout)
    for other in (there, alone):
        check(all(other[key] == here[key] for key in ("accuracy", "loss", "samples")), f"the same test images: {here} {other}")
    file = ok(run("evaluate", folder / "cnn/model.safetensors", "--config", config, "--json",
                  *settings("model.name=cnn", "model.fc_units=16", f"data.root={folder}/clinic")))
    check(json.loads(file.stdout)["loss"] == here["loss"], "also as a file by itself")
    if os.environ.get("TORCH", "1") == "1":
        ok(run("export", folder / "cnn", "--out", folder / "a.pt"))
        ok(run("export", folder / "cnn", "--out", folder / "b.pt", *settings(f"data.root={folder}/clinic")))
        check((folder / "a.pt").read_bytes() == (folder / "b.pt").read_bytes(), "exports say the model's own normalization")
    ways_to_read_bytes(folder, config)

    # A foreign test set must be one that the model can read.
    x, y = samples(50, (8,), 3, classes=5)
    write(folder / "foreign.safetensors", inputs=x, labels=y)
    refused(run("evaluate", folder / "cnn", "--data", folder / "foreign.safetensors"), "[1, 12, 12]", "[8]")
    refused(run("evaluate", folder / "begun", "--data", folder / "foreign.safetensors"), "classes 0 to 2", "go up to 4")
    write(folder / "foreign.safetensors", inputs=x[y < 2], labels=y[y < 2])
    found = json.loads(ok(run("evaluate", folder / "begun", "--data", folder / "foreign.safetensors", "--json")).stdout)
    check(found["samples"] == int((y < 2).sum()), "fewer classes than the model knows")


def ways_to_read_bytes(folder, config):
    """data.normalize: what a run began with is what its model, its evaluations and its exports keep."""
    start = ["simulate", config, *settings(f"data.root={folder}/photos", "model.name=cnn", "model.fc_units=16", "rounds=2", "train.lr=0.05", "train.crop_padding=1"), "--quiet"]
    losses = {}
    for name, deviation in (("dataset", None), ("unit", 1), ("none", 1 / 255)):
        out = folder / f"read-{name}"
        rate = settings("train.lr=0.000005") if name == "none" else []
        ok(run(*start, *settings(f"data.normalize={name}"), *rate, "--out", out))
        samples_seen = json.loads((out / "data.json").read_text())["samples"]
        if deviation:
            check(samples_seen["mean"] == [0] and abs(samples_seen["stddev"][0] - deviation) < 1e-9, f"{name}: {samples_seen}")
        seen = json.loads(ok(run("evaluate", out, "--json")).stdout)
        last = metrics(out)[-1]
        check(all(abs(seen[key] - last[key]) < 1e-6 * max(1, abs(last[key])) for key in ("accuracy", "loss")), f"{name}: evaluated as in the run: {seen} {last}")
        losses[name] = last["loss"]
    check(len(set(losses.values())) == 3, f"three ways to read bytes: {losses}")
    unit = folder / "read-unit"
    begun = (unit / "config.toml").read_bytes()
    refused(run("simulate", "--resume", unit, *settings("rounds=3", "data.normalize=dataset")), "data.normalize was \"unit\"", "is \"dataset\"")
    check((unit / "config.toml").read_bytes() == begun, "a refusal writes nothing")
    ok(run("simulate", "--resume", unit, *settings("rounds=3"), "--quiet"))
    ok(run(*start, *settings("data.normalize=unit", "rounds=3"), "--out", folder / "at-once"))
    check((unit / "model.safetensors").read_bytes() == (folder / "at-once/model.safetensors").read_bytes(), "gone on with as begun")
    refused(run("evaluate", unit, *settings("data.normalize=none")), "leave data.normalize out")
    refused(run("simulate", config, *settings(f"data.root={folder}/moved", "data.normalize=unit"), "--out", folder / "senseless"), "float values", "leave it out")
    if os.environ.get("TORCH", "1") == "1":
        ok(run("export", unit, "--out", folder / "unit.pt"))
        with zipfile.ZipFile(folder / "unit.pt") as archive:
            about = json.loads(archive.read(next(name for name in archive.namelist() if name.endswith("espalier.json"))))
        check(about["normalization"]["mean"] == [0] and about["normalization"]["stddev"] == [1], f"the export says so: {about}")


def schedules(folder):
    config = folder / "own.toml"
    start = ["simulate", config, *settings(f"data.root={folder}/moved", "rounds=3", "train.lr_schedule=cosine"), "--quiet"]
    rates = lambda name: [line["lr"] for line in metrics(folder / name)]
    ok(run(*start, "--out", folder / "cosine"))
    longer = ok(run("simulate", "--resume", folder / "cosine", *settings("rounds=5")))
    found = rates("cosine")
    check(found[:3] == sorted(found[:3], reverse=True) and found[2:] == [found[2]] * 3, f"the first cosine, and its last rate: {found}")
    check("ends with round 3" in longer.stderr and "train.schedule_rounds=5" in longer.stderr, longer.stderr)
    shutil.copytree(folder / "cosine", folder / "anew")
    anew = ok(run("simulate", "--resume", folder / "anew", *settings("rounds=8", "train.schedule_rounds=8")))
    check("learning rate goes from" in anew.stderr and rates("anew")[5] > found[4], f"drawn anew: {anew.stderr}")
    ok(run(*start, *settings("rounds=8", "train.schedule_rounds=8"), "--out", folder / "whole"))
    ok(run(*start, *settings("rounds=4", "train.schedule_rounds=8"), "--out", folder / "half"))
    ok(run("simulate", "--resume", folder / "half", *settings("rounds=8"), "--quiet"))
    check((folder / "half/model.safetensors").read_bytes() == (folder / "whole/model.safetensors").read_bytes(), "a horizon of its own")


def one_writer(folder):
    long = [ESPALIER, "simulate", "small.toml", "--set", "rounds=100000", "--quiet", "--threads", "1"]
    first = subprocess.Popen([*long, "--out", "busy"], cwd=folder, stderr=subprocess.PIPE, text=True)
    while not (folder / "busy/metrics.jsonl").exists():
        time.sleep(0.02)
    refused(run("simulate", "--resume", folder / "busy"), f"process {first.pid} on ", "being written")
    refused(run("simulate", folder / "small.toml", "--out", folder / "busy"), "already holds a run")
    ok(run("report", folder / "busy"))  # others may look
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = len(metrics(folder / "busy"))
    ok(run("simulate", "--resume", folder / "busy", *settings(f"rounds={done + 1}"), "--quiet"))
    summary = json.loads((folder / "busy/summary.json").read_text())
    check(summary["rounds_completed"] == len(metrics(folder / "busy")) == summary["rounds"] == done + 1, f"one story: {summary}")

    # Runs that start at once get folders of their own, and one that is refused leaves none.
    both = [subprocess.Popen([ESPALIER, "simulate", "small.toml", "--quiet"], cwd=folder) for _ in range(2)]
    check([process.wait() for process in both] == [0, 0], "two runs of one configuration")
    check(sorted(path.name for path in (folder / "runs").iterdir()) == ["small", "small-2"], "runs/small and runs/small-2")
    check(run("simulate", "small.toml", "--set", "strategy.clients_per_round=99", cwd=folder).returncode == 2, "too many clients")
    check(run("simulate", "small.toml", "--set", "strategy.clients_per_round=99", "--out", "new/er", cwd=folder).returncode == 2, "too many clients")
    check(len(list((folder / "runs").iterdir())) == 2 and not (folder / "new").exists(), "nothing is left of a run that never began")

    # No output destroys what was read.
    model = (folder / "busy/model.safetensors").read_bytes()
    for arguments in (["report", "busy", "--html", "busy/model.safetensors"], ["compare", "busy", "--html", "busy/config.toml"]):
        refused(run(*arguments, cwd=folder), "would destroy")
    if os.environ.get("TORCH", "1") == "1":
        refused(run("export", "busy", "--out", "busy/model.safetensors", cwd=folder), "would destroy")
        refused(run("export", "begun", "--out", folder / "moved/train.safetensors", *settings(f"data.root={folder}/moved"), cwd=folder), "would destroy")
    check((folder / "busy/model.safetensors").read_bytes() == model, "the model is as it was")


def options_with_effect(folder):
    config = folder / "own.toml"
    base = ["simulate", config, "--out", folder / "never", *settings(f"data.root={folder}/moved")]
    for pairs, text in (
        (["train.optimizer=adam", "train.momentum=0.9"], "train.momentum = 0.9 has no effect"),
        (["train.nesterov=true"], "train.momentum above 0"),
        (["train.amsgrad=true"], "train.optimizer"),
        (["train.beta1=0.8"], "train.optimizer"),
        (["train.lr_decay=0.5"], "train.lr_schedule"),
        (["train.lr_schedule=step"], "train.lr_decay"),
        (["train.schedule_rounds=9"], "train.lr_schedule"),
        (["train.lr_schedule=cosine", "train.lr_warmup_rounds=2"], "no round for the cosine"),
        (["data.partition.alpha=0.1"], "dirichlet"),
        (["data.partition.classes_per_client=1"], "shards"),
        (["data.partition.name=dirichlet", "data.partition.samples_per_client=20"], "iid"),
        (["data.split=digits"], "emnist"),
        (["data.synthetic_noise=2"], "synthetic"),
        (["model.lstm_units=8"], "another model than mlp"),
        (["model.norm=group"], "resnet8"),
        (["model.file=net.pt"], "torchscript"),
        (["error_feedback=residual"], "loses nothing"),
        (["submodel.keep=0.5"], "submodel"),
        (["strategy.name=adp", "strategy.threshold=0.1"], "strategy.threshold"),
    ):
        refused(run(*base, *settings(*pairs)), text)
    # What the file says for its own choice goes when the command line makes another.
    other = ok(run("simulate", folder / "small.toml", "--set", "model.name=cnn", "--set", "model.width=0.25", "--set", "data.partition.name=iid",
                   "--set", "rounds=1", "--out", folder / "cnn-instead"))
    check("model.hidden" in other.stderr and "data.partition.min_samples" in other.stderr, f"and it is said: {other.stderr}")
    check("hidden = [64]" in (folder / "cnn-instead/config.toml").read_text(), "the default is back")


def ranges(folder):
    """Statistics of a normalization are as large as the inputs; that is no divergence."""
    config = folder / "own.toml"
    for part, count, seed in (("train", 200, 1), ("test", 60, 2)):
        x, y = samples(count, (3, 8, 8), seed)
        write(folder / f"raw/{part}.safetensors", inputs=(x * 90000 + 200000).astype(np.float32), labels=y)
    ok(run("simulate", config, *settings(f"data.root={folder}/raw", "model.name=resnet8", "model.width=0.25", "rounds=4", "train.lr=0.05"),
           "--out", folder / "normed", "--quiet"))
    variance = np.frombuffer(read_safetensors(folder / "normed/model.safetensors")["bn1.running_var"], np.float32)
    summary = json.loads((folder / "normed/summary.json").read_text())
    check(variance.max() > 1e8 and summary["clients_failed"] == 0, f"running variances {variance}")

    tables(folder / "columns", scale=90000, shift=200000)
    refused(run("simulate", config, "--out", folder / "columns-run", "--quiet", *settings(f"data.root={folder}/columns")), "training diverged", "scale")


def outputs(folder):
    run_folder = folder / "begun"
    for arguments in (["evaluate", run_folder, "--json"], ["compare", run_folder, "--json"], ["compare", run_folder], ["report", run_folder],
                      ["list", "options"], ["--help"], ["simulate", "--help"], ["codec", "eval", "--dim", "256", "--json"],
                      ["data", "partition", "synthetic", "--json"], ["data", "info", "synthetic"]):
        with open("/dev/full", "w") as full:
            result = subprocess.run([ESPALIER, *map(str, arguments)], stdout=full, stderr=subprocess.PIPE, text=True)
        check(result.returncode == 1 and "standard output" in result.stderr, f"{arguments}: exit {result.returncode} {result.stderr}")
        reader, writer = os.pipe()
        os.close(reader)
        result = subprocess.run([ESPALIER, *map(str, arguments)], stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        check(result.returncode == 1 and "standard output" in result.stderr, f"{arguments}, nobody reads: exit {result.returncode} {result.stderr}")
    # A run goes on when nobody looks at its progress any more.
    process = subprocess.Popen([ESPALIER, "simulate", "small.toml", "--out", "unseen"], cwd=folder, stderr=subprocess.PIPE)
    process.stderr.close()
    check(process.wait() == 0 and len(metrics(folder / "unseen")) == 6, "a run whose progress nobody reads")


def sizes(folder):
    config = folder / "own.toml"
    for hidden in ("[9999999999]", "[400000, 400000]"):
        started = time.time()
        refused(run("simulate", config, *settings(f"data.root={folder}/moved", f"model.hidden={hidden}"), "--out", folder / "huge"), "parameters", "machine has")
        check(time.time() - started < 5 and not (folder / "huge").exists(), "before anything is allocated")
    said = ok(run("simulate", config, *settings(f"data.root={folder}/moved"), "--out", folder / "said"))
    check("195 parameters" in said.stderr and "780 B per message" in said.stderr and "of memory" in said.stderr, said.stderr)

    summary = json.loads((folder / "normed/summary.json").read_text())
    trained = sum(len(values) // 4 for name, values in read_safetensors(folder / "normed/model.safetensors").items()
                  if "running" not in name and "num_batches" not in name)
    check(summary["parameters"] == trained and summary["travelling_values"] > trained, f"two figures: {summary['parameters']} {summary['travelling_values']}")


def rounds_and_clients(folder):
    config = folder / "small.toml"
    ok(run("simulate", config, *settings("rounds=0"), "--out", folder / "untrained", "--quiet"))
    check(not metrics(folder / "untrained") if (folder / "untrained/metrics.jsonl").exists() else True, "no rounds")
    ok(run("evaluate", folder / "untrained"))
    ok(run("simulate", "--resume", folder / "untrained", *settings("rounds=6"), "--quiet"))
    ok(run("simulate", config, "--out", folder / "trained", "--quiet"))
    check((folder / "untrained/model.safetensors").read_bytes() == (folder / "trained/model.safetensors").read_bytes(), "it begins where others begin")

    for line in metrics(folder / "trained"):
        ids = line["clients"]
        check(len(ids) == line["clients_selected"] == 5 and ids == sorted(set(ids)) and max(ids) < 20, f"who took part: {line}")
    ok(run("simulate", config, *settings("record_clients=false", "rounds=1"), "--out", folder / "withheld", "--quiet"))
    check("clients" not in metrics(folder / "withheld")[0], "withheld")
    many = settings("data.partition.name=iid", "data.partition.samples_per_client=2", "data.partition.clients=5000", "strategy.clients_per_round=1200", "rounds=1")
    ok(run("simulate", config, *many, "--out", folder / "many", "--quiet"))
    line = metrics(folder / "many")[0]
    ids = [int(text) for text in (folder / "many" / line["clients_file"]).read_text().split()]
    check("clients" not in line and len(set(ids)) == 1200, "many ids stand in a file of their own")


with Folder() as folder:
    parts = [depends_on_nothing_outside, schedules, one_writer, options_with_effect, ranges, outputs, sizes, rounds_and_clients]
    for part in parts:
        part(folder)
    print(f"{len(parts)} passed, 0 failed")
