"""One run on several MPI ranks: the bytes of one process, whatever the number of ranks, also when it goes on with another number, or after a rank was killed."""
import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import time

from common import ESPALIER, Folder, check, ok, run

CONFIG = """
seed = 3
rounds = 4
checkpoint_every = 1
[data]
name = "synthetic"
synthetic_train_samples = 300
synthetic_test_samples = 100
synthetic_shape = [12]
synthetic_noise = 0.5
[data.partition]
name = "dirichlet"
clients = 12
min_samples = 5
[model]
name = "mlp"
hidden = [64]
[train]
lr = 0.1
[strategy]
clients_per_round = 7
"""
IMAGES = ["data.synthetic_shape=[1,12,12]", "model.name=cnn", "model.width=0.25"]
FOUR_BITS = '[{stage="hadamard"},{stage="quantize",bits=4}]'
CODED = [f"downlink={FOUR_BITS}", f"uplink={FOUR_BITS}"]
CASES = {
    "fedavg": CODED,
    "scaffold": ["strategy.name=scaffold"],
    "ef21": ['uplink=[{stage="topk",keep=0.1}]', "error_feedback=ef21"],
    "delta downlink": [f"downlink={FOUR_BITS}", "delta_downlink=true"],
    "autoflip": ["strategy.name=autoflip", "strategy.exploration_epochs=2", "strategy.refresh_rounds=2", *CODED],
    "adp": [*IMAGES, "strategy.name=adp", "model.gates=gated"],
    "fedgkt": ["data.synthetic_shape=[1,12,12]", "strategy.name=fedgkt", "model.name=small-client", "strategy.server_model=small-server", "strategy.server_epochs=1",
               "strategy.server_batch_size=20", "rounds=2"],
    "federated dropout": [*IMAGES, "submodel.name=federated-dropout", "submodel.keep=0.6", *CODED],
    "evaluation at clients": ["evaluate=clients", "eval_clients=3"],
}


def assignments(values):
    return [argument for value in values for argument in ("--set", value)]


def ranks(count, *arguments):
    """`espalier simulate` on so many ranks of this machine, as root too."""
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
    return subprocess.Popen(["mpirun", "-n", str(count), "--oversubscribe", ESPALIER, "simulate", "--threads", "1", *map(str, arguments)], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, what, code=0):
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        check(False, f"{what}: the ranks hang")
    check(process.returncode == code if code is not None else process.returncode != 0, f"{what}: ended with {process.returncode}\n{out}{err}")
    return err


def same(one, other, what):
    check((one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes(), f"{what}: another model")
    keys = ("accuracy", "loss", "train_loss", "bytes_down", "bytes_up", "macs", "clients")
    lines = [[{key: json.loads(line).get(key) for key in keys} for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (one, other)]
    check(lines[0] == lines[1], f"{what}: other figures\n{lines[0]}\n{lines[1]}")


def identity(folder, counts):
    config = folder / "config.toml"
    for number, (name, values) in enumerate(CASES.items()):
        alone = folder / f"alone-{number}"
        ok(run("simulate", config, "--out", alone, "--quiet", *assignments(values)))
        for count in counts:
            out = folder / f"ranks-{number}-{count}"
            finish(ranks(count, config, "--out", out, "--quiet", *assignments(values)), f"{name}, {count} ranks")
            same(alone, out, f"{name}, {count} ranks")
        # Goes on with another number.
        rounds = int(next((value.split("=")[1] for value in values if value.startswith("rounds=")), 4))
        out = folder / f"resumed-{number}"
        finish(ranks(3, config, "--out", out, "--quiet", *assignments([*values, f"rounds={rounds // 2}"])), f"{name}, first half")
        finish(ranks(2, "--resume", out, "--quiet", "--set", f"rounds={rounds}"), f"{name}, second half")
        same(alone, out, f"{name}, 3 ranks and then 2")


def kills(folder, count, seed):
    draw = random.Random(seed)
    config = folder / "config.toml"
    values = ["rounds=40", "strategy.name=scaffold", "data.synthetic_train_samples=3000"]
    alone = folder / "alone"
    ok(run("simulate", config, "--out", alone, "--quiet", *assignments(values)))
    for number in range(count):
        out = folder / f"killed-{number}"
        process = ranks(3, config, "--out", out, "--quiet", *assignments(values))
        after = draw.randrange(1, 30)
        until = time.time() + 60
        while time.time() < until and process.poll() is None and not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_bytes().count(b"\n") >= after):
            time.sleep(0.002)
        children = [int(child) for child in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()] if process.poll() is None else []
        # mpirun's helpers are not ranks.
        children = [child for child in children if pathlib.Path(f"/proc/{child}/comm").read_text().startswith("espalier")]
        if children:
            os.kill(draw.choice(children), signal.SIGKILL)
            said = finish(process, f"kill {number}", code=None)
            check("signal 9" in said or "Killed" in said, f"kill {number}: no word of it\n{said}")
            finish(ranks(2, "--resume", out, "--quiet"), f"kill {number}, resumed")
        else:
            finish(process, f"kill {number}: too late")
        same(alone, out, f"kill {number} after round {after}")


def mistakes(folder):
    said = finish(ranks(2, folder / "nowhere.toml"), "no configuration", code=2)
    check(said.count("nowhere.toml") == 1, said)
    said = finish(ranks(2, folder / "config.toml", "--out", folder / "wrong", "--set", "model.name=mpl"), "no model", code=2)
    check("mlp" in said, said)
    said = finish(ranks(2, folder / "config.toml", "--out", folder / "slow", "--set", "rounds=1"), "a small run")
    check("2 ranks" in said, said)


parser = argparse.ArgumentParser()
parser.add_argument("--counts", type=int, nargs="+", default=[2, 7])
parser.add_argument("--kills", type=int, default=2)
parser.add_argument("--seed", type=int, default=1)
options = parser.parse_args()
with Folder() as folder:
    (folder / "config.toml").write_text(CONFIG)
    for name, part in [("mistakes", lambda: mistakes(folder)), ("identity", lambda: identity(folder, options.counts)), ("kills", lambda: kills(folder, options.kills, options.seed))]:
        started = time.monotonic()
        part()
        print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
