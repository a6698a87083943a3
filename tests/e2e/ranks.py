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
MANY = ["data.synthetic_train_samples=600", "data.partition.clients=30", "strategy.clients_per_round=28"]
CASES = {
    "fedavg": CODED,
    "scaffold": ["strategy.name=scaffold"],
    # So many clients that ranks add their updates themselves: of a net with running statistics, and with what clients remember.
    "sums in ranks": [*IMAGES, "model.name=resnet8", *MANY, *CODED, "rounds=2"],
    "sums in ranks, states": ["strategy.name=scaffold", *MANY],
    "ef21": ['uplink=[{stage="topk",keep=0.1}]', "error_feedback=ef21"],
    "delta downlink": [f"downlink={FOUR_BITS}", "delta_downlink=true"],
    "autoflip": ["strategy.name=autoflip", "strategy.exploration_epochs=2", "strategy.refresh_rounds=2", *CODED],
    "adp": [*IMAGES, "strategy.name=adp", "model.gates=gated"],
    "fedgkt": ["data.synthetic_shape=[1,12,12]", "strategy.name=fedgkt", "model.name=small-client", "strategy.server_model=small-server", "strategy.server_epochs=1",
               "strategy.server_batch_size=20", "rounds=2"],
    "federated dropout": [*IMAGES, "submodel.name=federated-dropout", "submodel.keep=0.6", *CODED],
    "evaluation at clients": ["evaluate=clients", "eval_clients=3"],
    "statistics": [*IMAGES, "model.name=resnet8", "submodel.name=ordered", "submodel.keep=0.5", "submodel.scaler=true", "submodel.static_batch_norm=true",
                   "submodel.eval_widths=[0.5]", 'devices=[{name="a",keep=1},{name="b"}]', "rounds=2"],
}


def assignments(values):
    return [argument for value in values for argument in ("--set", value)]


ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}


def ranks(count, *arguments, threads=1):
    """`espalier simulate` on so many ranks of this machine, as root too."""
    return subprocess.Popen(["mpirun", "-n", str(count), "--oversubscribe", "--bind-to", "none", ESPALIER, "simulate", "--threads", str(threads), *map(str, arguments)],
                            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process, what, code=0):
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        subprocess.run(["pkill", "-KILL", "-f", f"{ESPALIER} simulate --threads"])  # mpirun's children have sessions of their own
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
            finish(ranks(count, config, "--out", out, "--quiet", *assignments(values), threads=1 + number % 2), f"{name}, {count} ranks")
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
    killed = 0
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
            killed += 1
        else:
            finish(process, f"kill {number}: too late")
        same(alone, out, f"kill {number} after round {after}")
    check(killed > 0, "no rank was killed")
    # A person's way to stop: SIGUSR1, which mpirun passes on.
    out = folder / "stopped"
    process = ranks(3, config, "--out", out, "--quiet", *assignments([*values, "checkpoint_every=1000"]))
    until = time.time() + 60
    while time.time() < until and not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_bytes().count(b"\n") >= 2):
        time.sleep(0.002)
    process.send_signal(signal.SIGUSR1)
    finish(process, "stopped", code=None)
    done = (out / "metrics.jsonl").read_bytes().count(b"\n")
    check(done < 40, "it did not stop")
    finish(ranks(2, "--resume", out, "--quiet"), "stopped and resumed")
    same(alone, out, f"stopped after round {done}")


def broken(folder):
    """What goes wrong at a rank ends all of them, with the reason."""
    config = folder / "config.toml"
    # States of clients that do not fit on the disk.
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True).returncode == 0:
        try:
            for attempt in range(2):
                said = finish(ranks(4, config, "--out", disk / f"run-{attempt}", "--quiet", *assignments(
                    ["strategy.name=scaffold", "client_state_mb=0", "model.hidden=[16000]", "rounds=30"])), "a full disk", code=None)
                check("No space" in said or "disk" in said, f"a full disk: {said}")
        finally:
            subprocess.run(["umount", "-l", str(disk)])
    # Another file than rank 0's, or none: what the folder keeps is what all ranks use.
    first = folder / "first"
    finish(ranks(1, config, "--out", first, "--quiet", *assignments(["rounds=1"])), "weights")
    init = folder / "init.safetensors"
    init.write_bytes((first / "model.safetensors").read_bytes())
    out = folder / "kept"
    finish(ranks(2, config, "--out", out, "--quiet", *assignments([f"model.init={init}", "rounds=1"])), "with weights")
    init.unlink()
    finish(ranks(3, "--resume", out, "--quiet", "--set", "rounds=2"), "resumed without the file")
    # A rank that cannot have its memory.
    limited = subprocess.Popen(["mpirun", "--bind-to", "none", "--oversubscribe", "-n", "1", ESPALIER, "simulate", str(config), "--out", str(folder / "memory"), "--quiet", "--threads", "1",
                                "--set", "model.hidden=[400000]", ":", "-n", "1", "bash", "-c", f"ulimit -v 500000; exec {ESPALIER} simulate x"],
                               env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    said = finish(limited, "a rank without memory", code=None)
    check("rank 1" in said or "bad_alloc" in said or "memory" in said, f"a rank without memory: {said}")


def mistakes(folder):
    said = finish(ranks(2, folder / "nowhere.toml"), "no configuration", code=2)
    check(said.count("nowhere.toml") == 1, said)
    said = finish(ranks(2, folder / "config.toml", "--out", folder / "wrong", "--set", "model.name=mpl"), "no model", code=2)
    check("mlp" in said, said)
    # A rank whose nets round differently, if this build can have one.
    once = ["simulate", str(folder / "config.toml"), "--quiet", "--set", "rounds=1"]
    for name, more in (("here", {}), ("sse4", {"ONEDNN_MAX_CPU_ISA": "SSE41"})):
        ok(subprocess.run([ESPALIER, *once, "--out", str(folder / name)], capture_output=True, text=True, timeout=120, env={**os.environ, **more}))
    used = [json.loads((folder / name / "summary.json").read_text())["instructions"] for name in ("here", "sse4")]
    older = subprocess.Popen(["mpirun", "--bind-to", "none", "--oversubscribe", "-n", "1", ESPALIER, "simulate", str(folder / "config.toml"), "--out", str(folder / "older"), "--quiet", "--threads", "1",
                              ":", "-n", "1", "env", "ONEDNN_MAX_CPU_ISA=SSE41", ESPALIER, "simulate", "x"],
                             env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    said = finish(older, "older instructions", code=0 if used[0] == used[1] else None)
    check(used[0] == used[1] or "differ in instructions: sse4 here" in said, f"older instructions: {said}")
    # Processes that a rank starts are no ranks.
    (folder / "study.toml").write_text('base = "config.toml"\nseeds = [1]\n[set]\nrounds = 1\n[[variant]]\nname = "one"\n')
    result = subprocess.run(["mpirun", "-n", "1", ESPALIER, "study", str(folder / "study.toml"), "--out", str(folder / "study"), "--quiet"], capture_output=True, text=True, timeout=120,
                            env={**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})
    check(result.returncode == 0 and "one" in result.stdout, f"a study under mpirun: {result.stdout}{result.stderr}")
    # Another MPI's starter, and none.
    for given, word in [({"PMI_SIZE": "8", "PMI_RANK": "3"}, "MPI has 1"), ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, "--mpi=pmix")]:
        result = subprocess.run([ESPALIER, "simulate", str(folder / "config.toml"), "--out", str(folder / "apart")], capture_output=True, text=True, timeout=120, env={**os.environ, **given})
        check(result.returncode == 2 and word in result.stderr, f"{given}: {result.stderr}")
        ok(subprocess.run([ESPALIER, "simulate", str(folder / "config.toml"), "--out", str(folder / f"alone-{word}"), "--quiet", "--set", "rounds=1"], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **given, "ESPALIER_MPI": "0"}))
    said = finish(ranks(2, folder / "config.toml", "--out", folder / "slow", "--set", "rounds=1"), "a small run")
    check("2 ranks" in said, said)


parser = argparse.ArgumentParser()
parser.add_argument("--counts", type=int, nargs="+", default=[2, 7])
parser.add_argument("--kills", type=int, default=2)
parser.add_argument("--seed", type=int, default=1)
options = parser.parse_args()
with Folder() as folder:
    (folder / "config.toml").write_text(CONFIG)
    for name, part in [("mistakes", lambda: mistakes(folder)), ("broken", lambda: broken(folder)), ("identity", lambda: identity(folder, options.counts)), ("kills", lambda: kills(folder, options.kills, options.seed))]:
        started = time.monotonic()
        part()
        print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
