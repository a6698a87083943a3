"""What the end-to-end tests share: running the command, and a configuration that takes a second."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ESPALIER = os.environ["ESPALIER"]
SOURCE = pathlib.Path(os.environ["SOURCE"])

SMALL = """
seed = 7
rounds = 6
[data]
name = "synthetic"
synthetic_train_samples = 800
synthetic_test_samples = 200
synthetic_shape = [1, 12, 12]
[data.partition]
name = "dirichlet"
clients = 20
min_samples = 5
[model]
name = "mlp"
hidden = [32]
[train]
lr = 0.05
[strategy]
name = "fedavg"
clients_per_round = 5
"""


def run(*arguments, timeout=120, cwd=None):
    return subprocess.run([ESPALIER, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, cwd=cwd)


def check(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def ok(result):
    check(result.returncode == 0, f"{result.args}: exit {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


class Folder(tempfile.TemporaryDirectory):
    """A temporary folder as a path, with SMALL as small.toml in it."""

    def __enter__(self):
        path = pathlib.Path(super().__enter__())
        (path / "small.toml").write_text(SMALL)
        return path


def read_safetensors(path):
    """The tensors of a file as bytes, by name: the whole format is a header size, a JSON header and the data."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return {name: data[8 + size + t["data_offsets"][0] : 8 + size + t["data_offsets"][1]] for name, t in header.items()}


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def running(folder):
    """Processes whose command line names the folder."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def wait_for(condition, what, seconds=300):
    started = time.time()
    while not condition():
        check(time.time() - started < seconds, f"waited for {what}")
        time.sleep(0.01)
