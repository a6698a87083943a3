"""A study: killed and gone on with, the same table whatever the order, jobs and shards, only what changed run anew, failures said."""
import json
import os
import re
import shutil
import signal
import subprocess
import time

from common import ESPALIER, SOURCE, Folder, check, metrics, ok, running, wait_for
from common import run as run_once

SMOKE = SOURCE / "bench/studies/smoke.toml"

STUDY = """
base = "small.toml"
seeds = [1, 2]
baseline = "plain"
targets = [0.3]
columns = ["accuracy", "difference", "bytes", "macs", "targets", "curve"]
"""
PLAIN = '[[variant]]\nname = "plain"\n'
PROX = '[[variant]]\nname = "prox"\nset = {strategy.name = "fedprox", strategy.mu = 0.5}\n'
CODED = '[[variant]]\nname = "coded"\nset = {uplink = [{stage = "hadamard"}, {stage = "quantize", bits = 4}]}\n'
BROKEN = '[[variant]]\nname = "broken"\nset = {train.lr = 1e30}\n'


def run(*arguments):
    return run_once(*arguments, timeout=600)


def write(folder, *variants, name="own.toml"):
    (folder / name).write_text(STUDY + "".join(variants))
    return folder / name


def table(result):
    """Header and rows of a --markdown table, the rows in no order."""
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    return [lines[0], *sorted(lines[2:])]


def cells(folder):
    return sorted(path.name for path in (folder / "cells").iterdir())


def models(folder):
    """What each cell ended with, by the part of its name that no build decides."""
    return {path.name.rsplit("-", 1)[0]: (path / "model.safetensors").read_bytes() for path in (folder / "cells").iterdir()}


def killed_and_gone_on(folder):
    """The study of CI: killed once in the middle of a run, it goes on where it was and ends as if nobody had disturbed it."""
    whole = ok(run("study", SMOKE, "--out", folder / "smoke", "--markdown", "--jobs", 2))
    check(len(cells(folder / "smoke")) == 4 and (folder / "smoke/study.html").exists(), "four runs and a page")
    out = folder / "killed"
    process = subprocess.Popen([ESPALIER, "study", SMOKE, "--out", out, "--quiet"], stdout=subprocess.DEVNULL)
    begun = lambda: [path for path in out.glob("cells/*/metrics.jsonl") if 2 <= path.read_bytes().count(b"\n") < 10 and not (path.parent / "summary.json").exists()]
    wait_for(lambda: begun() or process.poll() is not None, "the middle of a run")
    check(process.poll() is None, "the study ended before it could be killed")
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not running(out), "the runs to end with the study", 30)
    listed = json.loads(ok(run("study", SMOKE, "--out", out, "--dry-run", "--json")).stdout)
    check([cell["state"] for cell in listed["cells"]].count("begun") == 1 and listed["seconds_left"] > 0, f"one has begun: {listed}")
    again = ok(run("study", SMOKE, "--out", out, "--markdown"))
    check("goes on from its last checkpoint" in again.stderr, again.stderr)
    check(table(again) == table(whole), f"the table of an undisturbed study:\n{again.stdout}\n{whole.stdout}")
    check(models(out) == models(folder / "smoke"), "and its models, byte for byte")
    nothing = ok(run("study", SMOKE, "--out", out, "--markdown"))
    check("[1/" not in nothing.stderr and nothing.stdout == again.stdout, f"nothing is left to run: {nothing.stderr}")
    gathered = folder / "gathered"
    shutil.copytree(out / "cells", gathered / "cells")
    check(ok(run("study", SMOKE, "--out", gathered, "--no-run", "--markdown")).stdout == again.stdout, "cells that were put together")
    # A copy that broke off: no summary, and fewer lines of metrics than the checkpoint has rounds.
    torn = sorted((gathered / "cells").iterdir())[0]
    (torn / "summary.json").unlink()
    (torn / "metrics.jsonl").write_text("".join((torn / "metrics.jsonl").read_text().splitlines(True)[:3]))
    lost = run("study", SMOKE, "--out", gathered, "--markdown")
    check(lost.returncode == 1 and "rounds, for some were lost" in lost.stderr, f"rounds that are gone are no result: {lost.stderr}")
    anew = ok(run("study", SMOKE, "--out", gathered, "--markdown"))
    check(anew.stdout == again.stdout and "lacks rounds" in anew.stderr and len(cells(gathered)) == 5, f"run anew: {anew.stderr}")
    for name in ("study.json", "study.html"):  # as in a folder that may only be read
        (gathered / name).unlink()
        (gathered / name).mkdir()
    read = ok(run("study", SMOKE, "--out", gathered, "--no-run", "--markdown"))
    check(read.stdout == again.stdout and "left as they were" in read.stderr, f"a table of somebody else's study: {read.stderr}")


def any_order(folder):
    one = ok(run("study", write(folder, PLAIN, PROX, CODED), "--out", folder / "one", "--markdown"))
    other = ok(run("study", write(folder, CODED, PROX, PLAIN), "--out", folder / "other", "--markdown", "--jobs", 3, "--threads", 2))
    check(table(one) == table(other), f"shuffled and three at a time:\n{one.stdout}\n{other.stdout}")
    check(models(folder / "one") == models(folder / "other"), "the same models")
    for seed in (1, 2):
        line = next(path for path in (folder / "one/cells").iterdir() if path.name.startswith(f"plain-seed{seed}"))
        check(json.loads((line / "summary.json").read_text())["seed"] == seed, "seeds")
    # The table is what its runs say.
    data = json.loads((folder / "one/study.json").read_text())
    plain, prox = data["variants"][0], data["variants"][1]
    means = [sum(v["figures"]["accuracy"]["by_seed"].values()) / 2 for v in (plain, prox)]
    check(abs(prox["difference"]["mean"] - (means[1] - means[0])) < 1e-12 and prox["difference"]["n"] == 2, f"paired: {prox['difference']}")
    check(f"{100 * means[0]:.2f} ±" in one.stdout, "mean in the table")
    whole = ok(run("study", folder / "own.toml", "--out", folder / "other", "--json"))
    check(json.loads(whole.stdout) == json.loads((folder / "other/study.json").read_text()), "--json is study.json")


def shards(folder):
    study = write(folder, PLAIN, PROX, CODED)
    out = folder / "shards"
    first = ok(run("study", study, "--out", out, "--shard", "1/2", "--markdown"))
    check(ok(run("study", study, "--out", out, "--no-run", "--markdown")).stdout == first.stdout and len(cells(out)) == 3, "only the table")
    check("not finished" in first.stderr and "of 2 |" in first.stdout and len(cells(out)) == 3, f"half of it, and it is said: {first.stdout}{first.stderr}")
    second = ok(run("study", study, "--out", out, "--shard", "2/2", "--markdown"))
    check(len(cells(out)) == 6 and table(second) == table(ok(run("study", study, "--out", folder / "one", "--markdown"))), "both are the whole")
    check(run("study", study, "--out", out, "--shard", "3/2").returncode == 2, "there is no such shard")


def older_processor(folder):
    """Half of a study on a processor with fewer instructions: its nets round differently, which is said."""
    study = write(folder, PLAIN, name="older.toml")
    out = folder / "older"
    command = [ESPALIER, "study", str(study), "--out", str(out), "--shard", "1/2", "--quiet"]
    ok(subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, "ONEDNN_MAX_CPU_ISA": "SSE41"}))
    here = ok(run("study", study, "--out", out, "--markdown"))
    used = {json.loads((path / "summary.json").read_text())["instructions"] for path in (out / "cells").iterdir()}
    if len(used) == 1:
        print(f"this build or processor has {used.pop()} and nothing else")
        return
    check(f"vector instructions ({', '.join(sorted(used))})" in here.stderr, here.stderr)


def changed(folder):
    study = write(folder, PLAIN, PROX, CODED)
    before = cells(folder / "one")
    slower = PROX.replace("strategy.mu = 0.5", "strategy.mu = 0.25")
    listed = ok(run("study", write(folder, PLAIN, slower, CODED), "--out", folder / "one", "--dry-run"))
    check("2 of 6 cells to run, about" in listed.stdout and "strategy.mu was 0.5 and is 0.25" in listed.stdout, listed.stdout)
    check(cells(folder / "one") == before, "a dry run runs nothing")
    again = ok(run("study", study, "--out", folder / "one"))
    new = [name for name in cells(folder / "one") if name not in before]
    check(len(new) == 2 and all(name.startswith("prox-seed") for name in new) and "anew, strategy.mu was 0.5" in again.stderr, f"the changed ones alone: {new} {again.stderr}")
    back = ok(run("study", write(folder, PLAIN, PROX, CODED), "--out", folder / "one"))
    check("[1/" not in back.stderr, "what it was before is still there")
    # A run that somebody went on with by hand is no longer the cell that its name says.
    ok(run("simulate", "--resume", folder / "one/cells" / next(name for name in before if name.startswith("plain-seed1")), "--set", "rounds=7", "--quiet"))
    listed = ok(run("study", study, "--out", folder / "one", "--dry-run"))
    check("1 of 6 cells" in listed.stdout and "rounds was 7 and is 6" in listed.stdout, listed.stdout)
    # Another build's runs count when that is said.
    for config in (folder / "other/cells").glob("*/config.toml"):
        config.write_text(re.sub(r'build = "[0-9a-f]+"', 'build = "0000000000000000"', config.read_text()))
    listed = ok(run("study", study, "--out", folder / "other", "--dry-run"))
    check("6 of 6 cells" in listed.stdout and "another build" in listed.stdout, listed.stdout)
    check("0 of 6 cells" in ok(run("study", study, "--out", folder / "other", "--dry-run", "--any-build")).stdout, "taken as they are")
    taken = ok(run("study", study, "--out", folder / "other", "--any-build"))
    check("(build 0000000000000000); this is build" in taken.stdout, f"and it is said: {taken.stdout}")


def failures(folder):
    study = write(folder, PLAIN, BROKEN, CODED, name="broken.toml")
    result = run("study", study, "--out", folder / "broken")
    check(result.returncode == 1, f"exit {result.returncode}: {result.stderr}")
    check("broken, seed 1 FAILED" in result.stderr and "0 of 2" in result.stdout and "failed: " in result.stdout, f"it is said: {result.stdout}{result.stderr}")
    check(len([line for line in result.stdout.splitlines() if line.endswith("  2")]) == 2, f"the others went on: {result.stdout}")
    data = json.loads((folder / "broken/study.json").read_text())
    check(set(data["variants"][1]["failed"]) == {"1", "2"} and "diverged" in data["variants"][1]["failed"]["1"], f"and kept: {data['variants'][1]}")
    shown = ok(run("study", study, "--out", folder / "broken", "--no-run"))
    check(shown.stdout == result.stdout and "FAILED" not in shown.stderr, f"shown without another try: {shown.stdout}{shown.stderr}")
    again = run("study", study, "--out", folder / "broken", "--only", "broken", "--only", "plain")
    data = json.loads((folder / "broken/study.json").read_text())
    check(data["only"] == ["broken", "plain"] and len(data["variants"]) == 2, f"what it is of: {data['only']}")
    check(again.returncode == 1 and "[2/2]" in again.stderr and "[3/" not in again.stderr, f"tried again, and nothing else: {again.stderr}")


def interrupted(folder):
    study = write(folder, PLAIN, PROX, name="long.toml")
    study.write_text(study.read_text() + "[set]\nrounds = 100000\nrecord_clients = false\n")
    out = folder / "stopped"
    command = [ESPALIER, "study", str(study), "--out", str(out), "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: sum(path.stat().st_size > 0 for path in out.glob("cells/*/metrics.jsonl")) == 2, "two runs at once")
    both = run("study", study, "--out", out)
    check(both.returncode == 2 and f"process {process.pid}" in both.stderr, f"one process at a time: {both.stderr}")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    check(process.returncode == 3 and "stopped after round" in error and "goes on" in error, f"exit {process.returncode}: {error}")
    check(not running(out), "nothing runs any more")
    for path in out.glob("cells/*"):
        check(json.loads((path / "summary.json").read_text())["rounds_completed"] == len(metrics(path)) > 0, "whole rounds")


def mistakes(folder):
    out = folder / "never"
    missing = run("study", folder / "own.toml", "--out", out, "--no-run")
    check(missing.returncode == 2 and "no study has been run" in missing.stderr, missing.stderr)
    for text, expected in (('[[variant]]\nname = "a"\nset = {train.epoch = 1}\n', "did you mean 'epochs'"), ("[grid]\ntrain.lr = 3\n", "list of values"),
                           ('seeds = [1]\nseeds = [2]\n', "own.toml"), ('columns = ["bites"]\n', "did you mean 'bytes'")):
        (folder / "own.toml").write_text('base = "small.toml"\n' + text)
        result = run("study", folder / "own.toml", "--out", out)
        check(result.returncode == 2 and expected in result.stderr and len(result.stderr.splitlines()) == 1, f"{text}: {result.returncode} {result.stderr}")
    check(run("study", folder / "own.toml", "--only", "x", "--json", "--markdown").returncode == 2, "one form at a time")
    write(folder, PLAIN, PROX)
    check("did you mean 'plain'" in run("study", folder / "own.toml", "--only", "plane", "--out", out).stderr, "an unknown variant")
    ok(run("study", folder / "own.toml", "--dry-run", "--out", out))
    check(not out.exists(), "nothing was written")
    (folder / "full").mkdir()
    (folder / "full/mine.txt").write_text("mine")
    check("not empty" in run("study", folder / "own.toml", "--out", folder / "full").stderr, "somebody else's folder")


def page_and_version(folder):
    version = ok(run("--version")).stdout.strip()
    check(re.fullmatch(r"espalier \d+\.\d+\.\d+(\+[0-9a-f]{7,}(\.modified)?)? \(build [0-9a-f]{16}\)", version), version)
    summary = json.loads(next((folder / "one/cells").glob("*/summary.json")).read_text())
    check(f"espalier {summary['version']} (build {summary['build']})" == version and summary["instructions"], f"the run says so too: {summary['version']}")
    page = folder / "smoke/study.html"
    text = page.read_text()
    check(version.split()[1] in text and str(folder) not in text, "the page has the version and no path of this machine")
    for fetched in ("src=", "href=", "url(", "@import", "fetch(", "XMLHttpRequest"):
        check(fetched not in text, f"self-contained, without {fetched}")
    if shutil.which("chromium") is None:
        print("the page was not looked at: chromium is not installed")
        return
    for path in (page, folder / "one/study.html", folder / "broken/study.html"):
        result = subprocess.run([SOURCE / "scripts/check-report", path], capture_output=True, text=True, timeout=300)
        check(result.returncode == 0 and "3 charts" in result.stdout, f"{path}: {result.stdout}{result.stderr}")


with Folder() as folder:
    parts = [killed_and_gone_on, any_order, shards, older_processor, changed, failures, interrupted, mistakes, page_and_version]
    for part in parts:
        started = time.time()
        part(folder)
        print(f"{part.__name__}: {time.time() - started:.1f} s", flush=True)
    print(f"{len(parts)} passed, 0 failed")
