"""Whatever is wrong with the input: one line on standard error that says what to do, exit code 2, nothing half-written."""
import gzip
import os
import shutil
import struct
import subprocess

from common import ESPALIER, SMALL, Folder, check, ok, run


TORCH = os.environ.get("TORCH", "1") == "1"  # whether the program was built with libtorch

def refused(folder, arguments, *expected, allow=()):
    before = sorted(str(p) for p in folder.rglob("*"))
    result = run(*arguments, cwd=folder)
    check(result.returncode == 2, f"{arguments}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    lines = result.stderr.strip().splitlines()
    check(len(lines) == 1, f"{arguments}: expected one line, got {lines}")
    for text in expected:
        check(text in lines[0], f"{arguments}: expected '{text}' in '{lines[0]}'")
    after = sorted(str(p) for p in folder.rglob("*"))
    check(before == after or allow, f"{arguments}: wrote {set(after) - set(before)}")


def idx_files(folder, images, labels):
    folder.mkdir()
    for part in ("train", "t10k"):
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(images)
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(labels)


with Folder() as folder:
    small = folder / "small.toml"
    sim = lambda *extra: ["simulate", "small.toml", "--out", "never", *extra]
    setting = lambda *pairs: sim(*[word for pair in pairs for word in ("--set", pair)])

    refused(folder, ["simulate", "missing.toml"], "missing.toml")
    refused(folder, ["simulate"], "configuration")
    refused(folder, setting("round=3"), "did you mean 'rounds'")
    refused(folder, setting("rounds=many"), "expected an integer for rounds")
    refused(folder, setting("rounds=-1"), "at least 0")
    refused(folder, setting("strategy.name=fedagv"), "did you mean 'fedavg'")
    refused(folder, setting("strategy.mu=1"), "unknown key in [strategy] 'mu'")
    refused(folder, setting("model.name=resnet9"), "resnet")
    refused(folder, setting("data.partition.clients=0"), "clients")
    refused(folder, setting("data.partition.clients=2000"), "clients")
    refused(folder, setting("strategy.clients_per_round=21"), "clients_per_round")
    refused(folder, setting("data.partition.name=shards", "data.partition.classes_per_client=11"), "class")
    refused(folder, setting("data.partition.name=natural"), "no clients of its own")
    refused(folder, setting("data.partition.min_samples=700"), "min_samples")
    refused(folder, setting("train.lr=-1"), "train.lr")
    refused(folder, setting("train.device=cuda"), *(["CUDA"] if TORCH else ["libtorch", "train.device = \"cpu\""]))
    refused(folder, setting("model.name=torchscript", "model.file=nothing.pt"),
            *(["nothing.pt"] if TORCH else ["torchscript", "built without"]))
    refused(folder, setting("model.init=nothing.safetensors"), "nothing.safetensors")
    refused(folder, setting("model.name=lstm"), "lstm")
    refused(folder, setting("nothing"), "key=value")
    refused(folder, setting("strategy.name=scaffold", "train.optimizer=adam"), "scaffold", "sgd")
    refused(folder, setting("strategy.name=scaffold", "train.momentum=0.9"), "momentum")
    refused(folder, setting("strategy.name=fednova", "train.optimizer=adam"), "fednova", "sgd")
    refused(folder, setting('uplink=[{stage = "hadamard"}, {stage = "subsample", keep = 0.1}]', "error_feedback=residual"), "loses less")
    refused(folder, setting('uplink=[{stage = "quantise"}]'), "did you mean 'quantize'")
    refused(folder, setting('uplink=[{stage = "quantize", bits = 99}]'), "bits")
    (folder / "broken.toml").write_text("rounds = = 3\n")
    refused(folder, ["simulate", "broken.toml"], "line 1")

    # Data files: missing, truncated, corrupt, disagreeing.
    data = lambda name, root: setting(f"data.name={name}", f"data.root={root}")
    refused(folder, data("mnist", "nowhere"), "nowhere")
    refused(folder, data("cifar10", "nowhere"), "data fetch cifar10")
    refused(folder, data("leaf", "nowhere"), "nowhere")
    refused(folder, data("safetensors", "nowhere"), "nowhere")
    images = struct.pack(">IIII", 2051, 4, 28, 28) + bytes(4 * 784)
    labels = struct.pack(">II", 2049, 4) + bytes([0, 1, 2, 3])
    idx_files(folder / "truncated", images[:-10], labels)
    refused(folder, data("mnist", "truncated"), "train-images")
    idx_files(folder / "disagree", images, struct.pack(">II", 2049, 3) + bytes(3))
    refused(folder, data("mnist", "disagree"), "4")
    idx_files(folder / "magic", struct.pack(">I", 1234) + images[4:], labels)
    refused(folder, data("mnist", "magic"), "magic")
    idx_files(folder / "range", images, struct.pack(">II", 2049, 4) + bytes([0, 1, 2, 99]))
    refused(folder, data("mnist", "range"), "99")
    whole = (folder / "truncated/train-images-idx3-ubyte.gz").read_bytes()
    (folder / "truncated/train-images-idx3-ubyte.gz").write_bytes(whole[:-20])
    refused(folder, data("mnist", "truncated"), "gzip")

    # Folders and checkpoints.
    ok(run("simulate", small, "--set", "rounds=2", "--out", folder / "run", "--quiet"))
    refused(folder, ["simulate", "small.toml", "--out", "run"], "run")
    refused(folder, ["simulate", "small.toml", "--resume", "run"], "both")
    refused(folder, ["simulate", "--resume", "nowhere"], "nowhere")
    refused(folder, ["simulate", "--resume", "run", "--set", "train.lr=0.5", "--set", "rounds=4"], "train.lr was 0.05")
    checkpoint = folder / "run/checkpoint/checkpoint.safetensors"
    good = checkpoint.read_bytes()
    for bad in (good[: len(good) // 2], b"", good[:100] + bytes([good[100] ^ 1]) + good[101:]):
        checkpoint.write_bytes(bad)
        refused(folder, ["simulate", "--resume", "run", "--set", "rounds=4"], "checkpoint")
    checkpoint.unlink()
    refused(folder, ["simulate", "--resume", "run", "--set", "rounds=4"], "no checkpoint")
    refused(folder, ["compare", "nowhere"], "nowhere")
    refused(folder, ["report", "nowhere"], "nowhere")
    refused(folder, ["evaluate", "nowhere"], "nowhere")
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    refused(folder, ["evaluate", "model.safetensors", "--config", "small.toml"], "missing")
    refused(folder, ["evaluate", "run", "--runtime", "prunned"], "did you mean 'pruned'")
    refused(folder, ["evaluate", "run", "--runtime", "pruned", "--set", "model.hidden=[64]"], "shape")
    if TORCH:
        refused(folder, ["export", "model.safetensors", "--config", "small.toml", "--out", "never.pt"], "missing")
        refused(folder, ["export", "nowhere", "--out", "never.pt"], "nowhere")
    else:
        refused(folder, ["export", "run", "--out", "never.pt"], "written by libtorch")
    refused(folder, ["export", "run", "--out", "never.pt", "--runtime", "gated"], "unknown runtime", "dense, pruned")
    refused(folder, ["export", "run", "--out", "run"], "folder")
    refused(folder, ["export", "run", "--out", "nowhere/model.pt"], "nowhere")
    check(run("export", folder / "run").returncode == 2, "export needs --out")

    # A full disk: a file system of one megabyte, when we may mount one.
    disk = folder / "disk"
    disk.mkdir()
    if os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode == 0:
        try:
            wide = ["--set", "model.hidden=[512]"]  # a model of 300 kB
            result = run("simulate", small, *wide, "--out", disk / "run", "--quiet")
            lines = result.stderr.strip().splitlines()
            check(result.returncode == 2 and len(lines) == 1 and "No space left" in lines[0], f"full disk: {result.returncode} {lines}")
            check(not list(disk.rglob("*.tmp")) and not (disk / "run/model.safetensors").exists(), "nothing half-written on the full disk")
        finally:
            subprocess.run(["umount", disk], check=True)
    else:
        print("note: a full disk cannot be tried here (no permission to mount one); file_test covers it with /dev/full")

    # A wrong command line is the user's input too; its message may take more lines.
    for arguments in (["simulat"], ["simulate", "--no-such-option"], ["list", "nothing"], []):
        check(run(*arguments).returncode == 2, f"{arguments} must end with 2")
print("1 passed, 0 failed")
