#!/usr/bin/env python3
"""Federated accuracy under lossy links: final accuracy and bytes per client and round, mean and standard deviation over seeds.

    bench/codec_accuracy.py fashion-mnist|cifar10 [--seeds 3] [--links NAME …] [--results FILE]

Finished runs are kept in FILE (JSON lines) and not run again; the table is printed from it.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def stages(text):
    """'hadamard:rotations=2,eden:bits=2' as an inline TOML list of stage tables."""
    tables = []
    for stage in filter(None, text.split(",")):
        name, *options = stage.split(":")
        tables.append("{" + ", ".join([f'stage = "{name}"'] + [f"{k} = {v}" for k, v in (o.split("=") for o in options)]) + "}")
    return "[" + ", ".join(tables) + "]"


# name: (downlink, uplink)
LINKS = {
    "float32": ("", ""),
    "hadamard 4/2": ("hadamard,quantize:bits=4", "hadamard,quantize:bits=2"),
    "kashin 4/2": ("kashin,quantize:bits=4", "kashin,quantize:bits=2"),
    "eden 4/2": ("hadamard,eden:bits=4", "hadamard:rotations=2,eden:bits=2"),
    "dithered 4/2": ("hadamard,dithered:bits=4", "hadamard,dithered:bits=2"),
    "trellis 4/2": ("hadamard,trellis:bits=4", "hadamard,trellis:bits=2"),
    "trellis 3/1": ("hadamard,trellis:bits=3", "hadamard,trellis:bits=1"),
    "trellis 3/0.5": ("hadamard,trellis:bits=3", "hadamard,trellis:bits=0.5"),
    "trellis 3 / top-k 0.01": ("hadamard,trellis:bits=3", "topk:keep=0.01"),
    "trellis 3 / dithered 0.25": ("hadamard,trellis:bits=3", "hadamard,dithered:bits=0.25"),
    "trellis 3 / subsample 0.1, 2 bits": ("hadamard,trellis:bits=3", "hadamard,subsample:keep=0.1,quantize:bits=2"),
    "trellis 3 / subsample 0.03, 2 bits": ("hadamard,trellis:bits=3", "hadamard,subsample:keep=0.03,quantize:bits=2"),
    "trellis 2 / subsample 0.1, 2 bits": ("hadamard,trellis:bits=2", "hadamard,subsample:keep=0.1,quantize:bits=2"),
}

parser = argparse.ArgumentParser()
parser.add_argument("dataset", choices=["fashion-mnist", "cifar10"])
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--links", nargs="*", default=list(LINKS), choices=list(LINKS))
parser.add_argument("--results")
parser.add_argument("--espalier", default=ROOT / "build/release/bin/espalier")
arguments = parser.parse_args()
results_file = pathlib.Path(arguments.results or ROOT / f"runs/codec_accuracy-{arguments.dataset}.jsonl")
results_file.parent.mkdir(parents=True, exist_ok=True)
done = [json.loads(line) for line in results_file.read_text().splitlines()] if results_file.exists() else []

for seed in range(1, arguments.seeds + 1):
    for link in arguments.links:
        if any(r["link"] == link and r["seed"] == seed for r in done):
            continue
        down, up = LINKS[link]
        with tempfile.TemporaryDirectory() as folder:
            command = [arguments.espalier, "simulate", ROOT / f"bench/codecs_{arguments.dataset}.toml", "--set", f"seed={seed}",
                       "--set", f"downlink={stages(down)}", "--set", f"uplink={stages(up)}", "--out", f"{folder}/run", "--json", "--quiet"]
            summary = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
            lines = [json.loads(line) for line in pathlib.Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()]
        row = {"link": link, "seed": seed, "down": summary["bytes_down_per_client_round"], "up": summary["bytes_up_per_client_round"],
               "accuracy": [line["accuracy"] for line in lines if "accuracy" in line], "dense": summary["dense_bytes_per_client_round"],
               "seconds": summary["wall_seconds"]}
        done.append(row)
        with results_file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"seed {seed}  {link:36} {row['accuracy'][-1]:.4f}  {row['seconds']:.0f} s", flush=True)

print(f"\n{arguments.dataset}: links, bytes per client and round against float32, accuracy at each evaluation, final mean ± sd")
for link in LINKS:
    rows = [r for r in done if r["link"] == link]
    if not rows:
        continue
    final = [100 * r["accuracy"][-1] for r in rows]
    curve = "/".join(f"{100 * statistics.mean(r['accuracy'][i] for r in rows):.1f}" for i in range(len(rows[0]["accuracy"])))
    spread = statistics.stdev(final) if len(final) > 1 else 0
    down, up, dense = (statistics.mean(r[k] for r in rows) for k in ("down", "up", "dense"))
    print(f"{link:36} down {down / 1e3:8.1f} kB ({dense / down:5.1f}x)  up {up / 1e3:8.1f} kB ({dense / up:6.1f}x)  "
          f"{curve}  {statistics.mean(final):.2f} ± {spread:.2f}  ({len(rows)} seeds)")
