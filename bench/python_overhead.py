"""What Python costs beside the command line: the same run through both, a strategy written in Python beside the built-in one, a codec beside `espalier codec bench`.
Usage: ESPALIER=build/release/bin/espalier PYTHONPATH=build/release/python python3 bench/python_overhead.py [CONFIG]"""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

import espalier

ESPALIER = os.environ["ESPALIER"]
config = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "bench/w1.toml")


@espalier.register("python-fedavg")
class PythonFedAvg(espalier.Strategy):
    """FedAvg with both halves in Python."""

    def run_client(self, context, task):
        return context.train()


def seconds(work):
    started = time.monotonic()
    work()
    return time.monotonic() - started


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    number = iter(range(1000))

    def child(code):
        """In a process of its own, as the command line is."""
        subprocess.run([sys.executable, "-c", code], check=True)

    pairs = []
    for _ in range(3):
        here, there = folder / f"python-{next(number)}", folder / f"command-{next(number)}"
        pairs.append((seconds(lambda: child(f"import espalier; espalier.simulate({str(config)!r}, out={str(here)!r}, progress=False)")),
                      seconds(lambda: subprocess.run([ESPALIER, "simulate", config, "--out", there, "--quiet"], check=True))))
        assert (here / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()
    python, command = (statistics.median(column) for column in zip(*pairs))
    peaks = [json.loads((path / "summary.json").read_text())["peak_rss_bytes"] for path in (here, there)]
    print(f"{config.name}: Python {python:.2f} s, command line {command:.2f} s (with start-up), same bytes; peak {peaks[0] / 1e6:.0f} and {peaks[1] / 1e6:.0f} MB")

    tiny = {"seed": 1, "rounds": 10, "eval_every": 100, "data": {"name": "synthetic", "synthetic_train_samples": 500, "synthetic_test_samples": 10, "partition": {"clients": 50}},
            "model": {"name": "cnn"}, "strategy": {"clients_per_round": 50}}
    times = {}
    for strategy in ["fedavg", "python-fedavg"] * 3:
        run = espalier.simulate(tiny, out=folder / f"tiny-{next(number)}", progress=False, threads=1, **{"strategy.name": strategy})
        wall = run.metrics["wall_seconds"]
        times.setdefault(strategy, []).append((wall[-1] - wall[0]) / (len(wall) - 1) / 50)
    built_in, own = (min(times[strategy]) for strategy in ("fedavg", "python-fedavg"))
    print(f"a client task of 1.66 M parameters, one thread: built in {1e3 * built_in:.3f} ms, in Python {1e3 * own:.3f} ms, {1e3 * (own - built_in):+.3f} ms")

x = np.random.default_rng(1).normal(size=1 << 24).astype(np.float32)
for stages in ["hadamard,quantize:bits=4", "hadamard,dithered:bits=2"]:
    codec = espalier.codec(stages)
    best = min(seconds(lambda: codec.encode(x, key=1)) for _ in range(7))
    bench = json.loads(subprocess.run([ESPALIER, "codec", "bench", "--stages", stages, "--json"], capture_output=True, text=True, check=True).stdout)[0]
    print(f"{stages}, 2^24 values: Python {x.size / best / 1e9:.3f} G/s, codec bench {bench['encode_gelements_per_second']:.3f} G/s")
