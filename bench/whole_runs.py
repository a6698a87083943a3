#!/usr/bin/env python3
"""Whole runs of workloads W1, W2 and W3 (bench/w*.toml) in fp32 and bf16: medians of wall seconds and peak memory.

    bench/whole_runs.py [--repeats 3] [--espalier build/release/bin/espalier] [w1 w2 w3]

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
parser.add_argument("--espalier", default=ROOT / "build/release/bin/espalier")
arguments = parser.parse_args()


def run(workload, precision):
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.espalier, "simulate", ROOT / f"bench/{workload}.toml", "--set", f"train.precision={precision}",
                   "--out", f"{folder}/run", "--json", "--quiet"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


print(f"{'workload':10}{'precision':>10}{'wall s':>9}{'train s':>9}{'eval s':>8}{'updates/s':>11}{'peak MB':>9}{'accuracy':>10}")
cases = [(w, p) for w in arguments.workloads for p in ("fp32", "bf16") if (w, p) != ("w3", "bf16")]
run(*cases[0])  # warm-up
results = {case: [] for case in cases}
for _ in range(arguments.repeats):
    for case in cases:
        results[case].append(run(*case))
for (workload, precision), runs in results.items():
    middle = lambda key: statistics.median(r[key] for r in runs)
    print(f"{workload:10}{precision:>10}{middle('wall_seconds'):9.2f}{middle('train_seconds'):9.2f}{middle('eval_seconds'):8.2f}"
          f"{middle('client_updates_per_second'):11.1f}{middle('peak_rss_bytes') / 1e6:9.0f}{middle('final_accuracy'):10.4f}")
