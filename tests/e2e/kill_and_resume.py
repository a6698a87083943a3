"""kill -9 at random moments, resume, and end with the same bytes as a run that nobody disturbed."""
import argparse
import random
import shutil
import signal
import subprocess
import time

from common import ESPALIER, Folder, check, metrics, ok, run

parser = argparse.ArgumentParser()
parser.add_argument("--kills", type=int, default=4)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--checkpoint-every", type=int, default=3)
parser.add_argument("--strategy", choices=["scaffold", "fedgkt", "autoflip"], default="scaffold")
arguments = parser.parse_args()
random.seed(arguments.seed)

# SCAFFOLD has state on both sides, so that the server's variate and the clients' files are tried too. So has FedGKT, whose server in
# asynchronous mode keeps uploads of clients that take no part, 6.4 KB per sample, some of them on disk. AutoFLIP's clients keep masks, which change, and its first round explores.
OWN = {"scaffold": ["model.hidden=[512]"],
       "fedgkt": ["model.name=small-client", "strategy.server_model=small-server", "strategy.server_epochs=1", "strategy.mode=asynchronous",
                  "data.synthetic_train_samples=200", "data.synthetic_shape=[1,20,20]", "strategy.test_samples=2", "strategy.memory_limit_mb=1"],
       "autoflip": ["model.hidden=[512]", "strategy.exploration_epochs=2", "strategy.refresh_rounds=5", "strategy.by_unit=true",
                    "strategy.unit_threshold=0.5", "strategy.sparsity=0.5"]}
LONG = [argument for setting in ["rounds=40", f"strategy.name={arguments.strategy}", "client_state_mb=1", f"checkpoint_every={arguments.checkpoint_every}",
                                 *OWN[arguments.strategy]] for argument in ("--set", setting)]

with Folder() as folder:
    config = folder / "small.toml"
    started = time.time()
    ok(run("simulate", config, *LONG, "--out", folder / "whole", "--quiet"))
    whole_seconds = time.time() - started
    expected = (folder / "whole/model.safetensors").read_bytes()
    if arguments.strategy == "fedgkt":
        check(metrics(folder / "whole")[-1]["features_on_disk_bytes"] > 0, "some uploads lie on disk")
        ok(run("simulate", config, *LONG, "--set", "strategy.memory_limit_mb=0", "--out", folder / "unlimited", "--quiet"))
        check((folder / "unlimited/model.safetensors").read_bytes() == expected, "the limit changes no bit")

    done, restarts = 0, 0
    while done < arguments.kills:
        target = folder / "killed"
        shutil.rmtree(target, ignore_errors=True)
        command = [ESPALIER, "simulate", str(config), *LONG, "--out", str(target), "--quiet"]
        while True:
            # What is left of a kill before the first checkpoint is a folder without one: start afresh, as a person would.
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            try:
                process.wait(timeout=random.uniform(0.05, whole_seconds))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                done += 1
            else:
                error = process.stderr.read()
                if process.returncode == 0:
                    break
                check("no checkpoint" in error or "not a run" in error or "config.toml" in error, f"resume failed: {error}")
                shutil.rmtree(target, ignore_errors=True)
            if (target / "config.toml").exists():
                command = [ESPALIER, "simulate", "--resume", str(target), "--quiet"]
                restarts += 1
            else:
                shutil.rmtree(target, ignore_errors=True)
                command = [ESPALIER, "simulate", str(config), *LONG, "--out", str(target), "--quiet"]
        check((target / "model.safetensors").read_bytes() == expected, "the resumed run ended with other bytes")
        check([line["round"] for line in metrics(target)] == list(range(1, 41)), "one metrics line per round")
        # What lies on disk depends on the order in which uploads came, or come back.
        strip = lambda lines: [{k: v for k, v in line.items() if not any(word in k for word in ("seconds", "rss", "on_disk"))} for line in lines]
        check(strip(metrics(target)) == strip(metrics(folder / "whole")), "the resumed run wrote other metrics")

    # Ctrl-C finishes the round, checkpoints, and says how to go on.
    process = subprocess.Popen([ESPALIER, "simulate", str(config), *LONG, "--set", "rounds=400", "--out", str(folder / "stopped")],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (folder / "stopped/metrics.jsonl").exists() or not (folder / "stopped/metrics.jsonl").read_bytes():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    check(process.returncode == 3 and "--resume" in error, f"Ctrl-C: exit {process.returncode}: {error}")
    ok(run("simulate", "--resume", folder / "stopped", "--set", "rounds=40", "--quiet")) if len(metrics(folder / "stopped")) <= 40 else None
    if len(metrics(folder / "stopped")) == 40:
        check((folder / "stopped/model.safetensors").read_bytes() == expected, "stopped and resumed")
    print(f"{done} kills, {restarts} resumed")
print("1 passed, 0 failed")
