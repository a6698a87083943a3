"""A study whose cells run at the ranks of an MPI job: the table and bytes of one process, gone on with after mpirun or a rank was killed, stopped, or a cell failed."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

from common import ESPALIER, SOURCE, Folder, check, metrics, ok, running, wait_for
from common import run as run_once

SMOKE = SOURCE / "bench/studies/smoke.toml"
ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
# Runs of some seconds, to be disturbed in the middle.
LONG = f"""
base = "{SOURCE / "bench/smoke.toml"}"
seeds = [1, 2]
columns = ["accuracy", "difference", "bytes"]
[set]
rounds = 150
eval_every = 50
[[variant]]
name = "plain"
[[variant]]
name = "prox"
set = {{strategy.name = "fedprox", strategy.mu = 0.5}}
"""


def run(*arguments):
    return run_once(*arguments, timeout=600)


def start(count, *arguments, more=(), threads=1, cwd=None):
    """`espalier study` on so many ranks of this machine, and on those that `more` says."""
    return subprocess.Popen(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(count), ESPALIER, "study", "--threads", str(threads), *map(str, arguments), *map(str, more)],
                            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)


def finish(process, what, code=0):
    """What it printed: standard output, standard error."""
    try:
        out, err = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        for one in [*below(process.pid), process.pid]:
            os.kill(one, signal.SIGKILL)
        check(False, f"{what}: it hangs")
    check(process.returncode == code if code is not None else process.returncode != 0, f"{what}: ended with {process.returncode}\n{out}{err}")
    return out, err


def ranks(count, *arguments, code=0, **more):
    return finish(start(count, *arguments, **more), f"{count} ranks, {arguments}", code)


def below(process):
    """The children of a process."""
    try:
        return [int(child) for child in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def ranks_of(process):
    """By their numbers; mpirun's helpers are no ranks."""
    found = {}
    for child in below(process.pid):
        try:
            if pathlib.Path(f"/proc/{child}/comm").read_text().startswith("espalier"):
                number = re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", pathlib.Path(f"/proc/{child}/environ").read_bytes())
                found[int(number[1])] = child
        except OSError:
            pass
    return found


def table(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def models(folder):
    """What each cell ended with; a folder's name follows from configuration and build alone."""
    return {path.name: (path / "model.safetensors").read_bytes() for path in (folder / "cells").iterdir()}


def in_the_middle(out):
    """Cells of LONG that are some rounds old."""
    return [path for path in out.glob("cells/*/metrics.jsonl") if 5 <= path.read_bytes().count(b"\n") < 100]


def same_as_alone(folder):
    alone = ok(run("study", SMOKE, "--out", folder / "alone", "--markdown"))
    for count, jobs in ((3, 1), (2, 2), (1, 2)):
        out = folder / f"ranks-{count}-{jobs}"
        printed, said = ranks(count, SMOKE, "--out", out, "--markdown", "--jobs", jobs)
        check(printed == alone.stdout, f"{count} ranks: the table of one process, once\n{printed}\n{alone.stdout}")
        check(models(out) == models(folder / "alone"), f"{count} ranks: its models")
        check(said.count("[1/4]") == said.count("[4/4]") == 1 and f"{count} rank" in said and f"{count * jobs} runs at a time" in said, said)
        check(not list((out / "starting").iterdir()), "nothing is left behind")
    printed, said = ranks(3, SMOKE, "--out", folder / "ranks-3-1", "--json", "--quiet")
    check(json.loads(printed) == json.loads((folder / "ranks-3-1/study.json").read_text()) and not said, f"--json --quiet: {said}")
    # In parts, and without running anything.
    out = folder / "shards"
    listed, _ = ranks(3, SMOKE, "--out", out, "--dry-run")
    check("4 of 4 cells to run" in listed and listed.count("4 of 4") == 1 and not out.exists(), listed)
    ranks(2, SMOKE, "--out", out, "--shard", "1/2", "--quiet")
    listed = json.loads(ranks(2, SMOKE, "--out", out, "--dry-run", "--json")[0])
    check(listed["to_run"] == 2 and listed["seconds_left"] > 0, f"half of it: {listed}")
    printed, _ = ranks(2, SMOKE, "--out", out, "--shard", "2/2", "--markdown", "--quiet")
    check(printed == alone.stdout, "both halves are the whole")


def two_machines(folder):
    """Ranks that differ: one thinks that it is on another machine."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-u", "hostname", "elsewhere"], capture_output=True).returncode != 0:
        print("no rank had another machine's name: that is not allowed here")
        return
    out = folder / "machines"
    other = f"hostname elsewhere && exec {ESPALIER} study {SMOKE} --threads 100 --out {out}"
    printed, said = ranks(1, SMOKE, "--out", out, "--markdown", "--jobs", 2, more=[":", "-n", "1", "unshare", "-u", "sh", "-c", other])
    check(printed == ok(run("study", SMOKE, "--out", folder / "alone", "--markdown")).stdout, printed)
    check("2 ranks on 2 machines, 3 runs at a time, with 1 to 100 threads each; note: 100 threads share" in said and "of elsewhere, which" in said, said)
    check(len(re.findall(r"^\[\d/4\] .* on elsewhere$", said, re.MULTILINE)) >= 1, f"it says where a cell runs: {said}")


def killed_and_gone_on(folder):
    study = folder / "long.toml"
    study.write_text(LONG)
    whole = ok(run("study", study, "--out", folder / "whole", "--markdown", "--jobs", 2))
    for what, victim in (("mpirun", None), ("rank 1", 1), ("rank 0", 0)):
        out = folder / f"killed-{victim}"
        process = start(3, study, "--out", out)
        wait_for(lambda: len(in_the_middle(out)) >= 2 or process.poll() is not None, "the middle of two runs")
        check(process.poll() is None, f"{what}: it ended before it could be killed")
        there = ranks_of(process)
        check(sorted(there) == [0, 1, 2], f"three ranks: {there}")
        children = below(there[1])
        check(len(children) == 1, f"rank 1 runs a cell: {children}")
        os.kill(process.pid if victim is None else there[victim], signal.SIGKILL)
        _, said = finish(process, what, code=None)
        if victim is not None:
            check("signal 9" in said or "Killed" in said, f"{what}: no word of it\n{said}")
        wait_for(lambda: not running(out), f"{what}: the cells to end with their ranks", 30)
        listed = json.loads(ok(run("study", study, "--out", out, "--dry-run", "--json")).stdout)
        check("begun" in [cell["state"] for cell in listed["cells"]], f"{what}: some have begun: {listed}")
        if victim == 1:  # without mpirun
            again = ok(run("study", study, "--out", out, "--markdown", "--jobs", 2))
            printed, said = again.stdout, again.stderr
        else:
            printed, said = ranks(2, study, "--out", out, "--markdown")
        check("goes on from its last checkpoint" in said and printed == whole.stdout, f"{what}: gone on with\n{printed}{said}\n{whole.stdout}")
        check(models(out) == models(folder / "whole"), f"{what}: the models of an undisturbed study")


def stopped(folder):
    study = folder / "long.toml"
    whole = ok(run("study", study, "--out", folder / "whole", "--markdown"))
    # After their round, when asked so; SIGTERM and Ctrl-C end the job.
    for what in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        out = folder / f"stopped-{what.name}"
        process = start(3, study, "--out", out)
        wait_for(lambda: len(in_the_middle(out)) >= 3 or process.poll() is not None, "the middle of three runs")
        check(process.poll() is None, f"{what.name}: it ended before it could be stopped")
        process.send_signal(what)
        printed, said = finish(process, what.name, code=3 if what == signal.SIGUSR1 else None)
        wait_for(lambda: not running(out), f"{what.name}: the cells to end", 30)
        if what == signal.SIGUSR1:
            check(said.count("stopped after round") == 3 and "The same command goes on" in said, said)
            for path in out.glob("cells/*"):
                check(json.loads((path / "summary.json").read_text())["rounds_completed"] == len(metrics(path)) > 0, "whole rounds")
        printed, said = ranks(2, study, "--out", out, "--markdown")
        check("goes on from its last checkpoint" in said and table(printed) == table(whole.stdout) and models(out) == models(folder / "whole"), f"{what.name}: gone on with\n{printed}{said}")


def failures(folder):
    study = folder / "broken.toml"
    study.write_text('base = "small.toml"\nseeds = [1, 2]\n[[variant]]\nname = "plain"\n[[variant]]\nname = "broken"\nset = {train.lr = 1e30}\n')
    printed, said = ranks(3, study, "--out", folder / "broken", code=1)
    check("broken, seed 1 FAILED: " in said and "broken, seed 2 FAILED: " in said and "0 of 2" in printed, f"it is said: {printed}{said}")
    check("plain, seed 1: " in said and "plain, seed 2: " in said, f"the others go on: {said}")
    data = json.loads((folder / "broken/study.json").read_text())
    check("diverged" in data["variants"][1]["failed"]["2"], f"and kept: {data['variants'][1]}")


def refused(folder):
    _, said = ranks(3, folder / "nowhere.toml", "--out", folder / "never", code=2)
    check(said.count("nowhere.toml") == 1, said)
    # Two jobs, one study.
    study = folder / "long.toml"
    out = folder / "twice"
    process = start(2, study, "--out", out)
    wait_for(lambda: in_the_middle(out), "a run")
    _, said = ranks(2, study, "--out", out, code=2)
    check(said.count("is being run by process") == 1, said)
    process.send_signal(signal.SIGUSR1)
    finish(process, "two jobs", code=3)
    # A rank that was started otherwise.
    _, said = ranks(1, SMOKE, "--out", folder / "apart", more=[":", "-n", "1", ESPALIER, "simulate", folder / "small.toml", "--out", folder / "simulated"], code=None)
    check("rank 1 said something unknown" in said and "the same command" in said, said)
    # A folder that the ranks do not share: one has a file system of its own over it.
    hidden = folder / "hidden"
    hidden.mkdir()
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", hidden], capture_output=True).returncode != 0:
        print("no rank was made blind for the folder: mounting is not allowed here")
        return
    command = f"exec {ESPALIER} study {SMOKE} --out {hidden}/study"
    for setup, word in ((f"mount -t tmpfs tmpfs {hidden}", "file system that all machines share"), (f"mount --bind {hidden} {hidden} && mount -o remount,ro,bind {hidden}", "cannot write into")):
        _, said = ranks(1, SMOKE, "--out", hidden / "study", more=[":", "-n", "1", "unshare", "-m", "sh", "-c", f"{setup} && {command}"], code=2)
        lines = [line for line in said.splitlines() if line.startswith("espalier: ")]
        check(len(lines) == 1 and "rank 1 on " in lines[0] and str(hidden) in lines[0] and word in lines[0], said)
    work = folder / "work"
    work.mkdir()
    _, said = ranks(1, SMOKE, "--out", folder / "nobody", more=[":", "-n", "1", "unshare", "-m", "sh", "-c", f"mount -t tmpfs tmpfs {folder} && cd / && {command}"], code=2, cwd=work)
    check("rank 1 on " in said and f"cannot enter {work}" in said, said)


with Folder() as folder:
    parts = [same_as_alone, two_machines, killed_and_gone_on, stopped, failures, refused]
    for part in parts:
        started = time.time()
        part(folder)
        print(f"{part.__name__}: {time.time() - started:.1f} s", flush=True)
    print(f"{len(parts)} passed, 0 failed")
