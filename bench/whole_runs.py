#!/usr/bin/env python3
"""Whole runs of workloads W1, W2 and W3 (bench/w*.toml) in fp32 and bf16: medians of wall seconds and peak memory, and beside the seconds of training and of
evaluation their floors: the products that were executed, over what as many threads of this machine multiply at best (step_bench --peaks, in the same run), and
how far from it they are. A bf16 run's products are all held to the bf16 peak, although some layers work in fp32.

    bench/whole_runs.py [--repeats 3] [--espalier build/release/bin/espalier] [--step-bench build/release/bin/step_bench] [--set KEY=VALUE] [w1 w2 w3]

W1 needs MNIST and W2 CIFAR-10: espalier data fetch mnist; espalier data fetch cifar10.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser()
parser.add_argument("workloads", nargs="*", default=["w1", "w2", "w3"])
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], help="fp32 alone where the processor has no AVX-512")
parser.add_argument("--espalier", default=ROOT / "build/release/bin/espalier")
parser.add_argument("--step-bench", default=ROOT / "build/release/bin/step_bench")
parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the configuration (repeatable)")
arguments = parser.parse_args()


def run(workload, precision):
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.espalier, "simulate", ROOT / f"bench/{workload}.toml", "--set", f"train.precision={precision}",
                   "--out", f"{folder}/run", "--json", "--quiet", *(word for pair in arguments.set for word in ("--set", pair))]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def peaks(threads):
    command = [arguments.step_bench, "--peaks", "--json", "--threads", str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


print(f"{'workload':10}{'precision':>10}{'wall s':>9}{'train s':>9}{'floor s':>9}{'times':>7}{'eval s':>8}{'floor s':>9}{'times':>7}{'updates/s':>11}{'peak MB':>9}{'accuracy':>10}")
cases = [(w, p) for w in arguments.workloads for p in arguments.precisions if (w, p) != ("w3", "bf16")]
run(*cases[0])  # warm-up
results = {case: [] for case in cases}
best = {}  # by number of threads, of every repeat
for _ in range(arguments.repeats):
    for case in cases:
        results[case].append(run(*case))
    for threads in {runs[0]["threads"] for runs in results.values()}:
        best.setdefault(threads, []).append(peaks(threads))
for (workload, precision), runs in results.items():
    middle = lambda key: statistics.median(r[key] for r in runs)
    rate = max(peak[f"{precision}_macs_per_second"] for peak in best[runs[0]["threads"]])
    line = f"{workload:10}{precision:>10}{middle('wall_seconds'):9.2f}"
    for seconds, macs, width in (("train_seconds", "client_macs_total", 9), ("eval_seconds", "eval_macs_total", 8)):
        floor = middle(macs) / rate
        line += f"{middle(seconds):{width}.2f}{floor:9.3f}" + (f"{middle(seconds) / floor:6.1f}x" if floor > 0 else f"{'-':>7}")
    print(line + f"{middle('client_updates_per_second'):11.1f}{middle('peak_rss_bytes') / 1e6:9.0f}{middle('final_accuracy'):10.4f}")
for threads, found in best.items():
    top = {precision: max(found, key=lambda peak: peak[f"{precision}_macs_per_second"]) for precision in arguments.precisions}
    print(f"peaks of {threads} threads: " + ", ".join(f"{p} {top[p][f'{p}_macs_per_second'] / 1e9:.0f} G products/s ({top[p][f'{p}_by']})" for p in top))
