#!/usr/bin/env python3
"""What structured pruning saves where it happens: bytes of a task and an update as encoded, a round's training time on the clock, latency and
size of the trained network. Dense and pruned runs take turns, one thread each.

    bench/pruned_savings.py [--repeats 3] [--set key=value …]
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PRUNED = ["strategy.sparsity=0.5", "strategy.by_unit=true", "strategy.unit_threshold=0.5", "strategy.min_keep=0.25"]
DENSE = ['strategy={name="fedavg", clients_per_round=5}']


def simulate(arguments, settings, folder):
    command = [arguments.espalier, "simulate", ROOT / "examples/autoflip.toml", "--threads", "1", "--quiet", "--out", folder]
    for setting in [f"rounds={arguments.rounds}", "eval_every=0", *settings, *arguments.set]:
        command += ["--set", setting]
    subprocess.run(command, check=True, cwd=ROOT)
    # The first round explores, and sends the mask; the last one evaluates.
    return [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()][1:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--espalier", default=ROOT / "build/release/bin/espalier")
    arguments = parser.parse_args()
    times = {"dense": [], "pruned": []}
    with tempfile.TemporaryDirectory() as temporary:
        for repeat in range(arguments.repeats):
            for name, settings in (("dense", DENSE), ("pruned", PRUNED)):
                folder = f"{temporary}/{name}{repeat}"
                lines = simulate(arguments, settings, folder)
                times[name].append(statistics.median(line["train_seconds"] / line["clients_selected"] for line in lines))
                if repeat == 0:
                    first = lines[0]
                    print(f"{name:8} {first['bytes_down'] / first['clients'] / 1e6:.3f} MB per task, {first['bytes_up'] / first['clients'] / 1e6:.3f} MB per update, "
                          f"{first['macs'] / first['clients'] / 1e9:.1f} GMAC per update, parameters {first.get('part_parameters', '')}", flush=True)
                    times[name + " bytes"] = first["bytes_down"]
        seconds = {name: statistics.median(times[name]) for name in ("dense", "pruned")}
        print(f"task bytes: {times['pruned bytes'] / times['dense bytes']:.3f} of dense")
        print(f"a client's training: {seconds['dense']:.3f} s dense, {seconds['pruned']:.3f} s pruned, {seconds['pruned'] / seconds['dense']:.3f} of it "
              f"(runs: {', '.join(f'{p / d:.3f}' for p, d in zip(times['pruned'], times['dense']))})")
        print(subprocess.run([arguments.espalier, "evaluate", f"{temporary}/pruned0", "--runtime", "pruned"], check=True, cwd=ROOT, capture_output=True, text=True).stdout)


main()
