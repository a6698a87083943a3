#!/usr/bin/env python3
"""Espalier beside plain PyTorch loops that do the same work (bench/peer_loop.py), whole processes in turn: medians, and their ratio.

    bench/peers.py [--repeats 5] [--espalier build/release/bin/espalier] [--python /usr/bin/python3] [--untuned] [w1 w2 round]

w1 and w2: seconds of the whole run on two threads, against the loop on two processes with its heap set as ours and channels-last ("tuned");
--untuned adds the loop as it stands. round: seconds of one round, on two threads and on one, against the loop in one process.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser()
parser.add_argument("workloads", nargs="*", default=["w1", "w2", "round"])
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], help="fp32 alone where the processor has no AVX-512")
parser.add_argument("--espalier", default=ROOT / "build/release/bin/espalier")
parser.add_argument("--python", default="/usr/bin/python3")
parser.add_argument("--untuned", action="store_true")
arguments = parser.parse_args()


def ours(workload, *options):
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.espalier, "simulate", ROOT / f"bench/{workload}.toml", *options, "--out", f"{folder}/run", "--json", "--quiet"]
        summary = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
        rounds = [json.loads(line)["train_seconds"] for line in (pathlib.Path(folder) / "run/metrics.jsonl").read_text().splitlines()]
        return {"wall_seconds": summary["wall_seconds"], "round_seconds": statistics.median(rounds),
                "peak_rss_bytes": summary["peak_rss_bytes"], "accuracy": summary["final_accuracy"]}


def loop(workload, *options):
    command = [arguments.python, ROOT / "bench/peer_loop.py", workload, *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def cases(workload):
    if workload == "round":
        heaps = [("PyTorch loop, tuned", ("--heap", "tuned"))] + ([("PyTorch loop", ())] if arguments.untuned else [])
        return ([(f"Espalier, {n} threads", lambda n=n: ours("round", "--threads", str(n))) for n in (2, 1)]
                + [(name, lambda o=o: loop("round", "--processes", "1", *o)) for name, o in heaps])
    loops = [("PyTorch loop, tuned", ("--heap", "tuned", "--channels-last"))]
    if arguments.untuned:
        loops += [("PyTorch loop, tuned heap", ("--heap", "tuned")), ("PyTorch loop", ())]
    return ([(f"Espalier {p}", lambda p=p: ours(workload, "--threads", "2", "--set", f"train.precision={p}")) for p in arguments.precisions]
            + [(name, lambda o=o: loop(workload, *o)) for name, o in loops])


print(f"{'workload':10}{'what':28}{'seconds':>9}{'least':>8}{'most':>8}{'MB':>7}{'accuracy':>10}{'tuned loop / this':>19}")
for workload in arguments.workloads:
    kind = "round_seconds" if workload == "round" else "wall_seconds"
    table = cases(workload)
    results = {name: [] for name, _ in table}
    for _ in range(arguments.repeats):
        for name, run in table:
            results[name].append(run())
    seconds = {name: [r[kind] for r in runs] for name, runs in results.items()}
    base = statistics.median(seconds["PyTorch loop, tuned"])
    for name, runs in results.items():
        middle = statistics.median(seconds[name])
        print(f"{workload:10}{name:28}{middle:9.3f}{min(seconds[name]):8.3f}{max(seconds[name]):8.3f}"
              f"{statistics.median(r['peak_rss_bytes'] for r in runs) / 1e6:7.0f}{statistics.median(r['accuracy'] for r in runs):10.4f}"
              f"{base / middle:19.2f}", flush=True)
