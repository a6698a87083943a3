"""A server and its clients as processes on loopback, over TLS: whatever happens on the way, they end in the bytes of a simulation."""
import argparse
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

from common import ESPALIER, SOURCE, Folder, check, ok, run, running

CONFIG = """
seed = 3
rounds = 4
[data]
name = "synthetic"
synthetic_train_samples = 300
synthetic_test_samples = 100
synthetic_shape = [12]
synthetic_noise = 0.5
[data.partition]
name = "dirichlet"
clients = 3
min_samples = 5
[model]
name = "mlp"
hidden = [128]
[train]
lr = 0.1
[strategy]
clients_per_round = 3
[server]
goodbye_s = 60
[network]
heartbeat_s = 0.5
lease_s = 3
poll_s = 2
"""
FOUR_BITS = '[{stage="hadamard"},{stage="quantize",bits=4}]'
TOPK = '[{stage="topk",keep=0.1}]'
IMAGES = ["data.synthetic_shape=[1,12,12]", "model.name=cnn", "model.width=0.25"]
CODED = [f"downlink={FOUR_BITS}", f"uplink={FOUR_BITS}"]
# One of each family: what travels, what stays with clients, what is asked besides training.
CASES = {
    "fedavg": [],
    "fedavg coded": CODED,
    "residual": [f"uplink={TOPK}"],
    "ef21": [f"uplink={TOPK}", "error_feedback=ef21", "strategy.clients_per_round=2"],
    "delta downlink": [f"downlink={FOUR_BITS}", "delta_downlink=true", "strategy.clients_per_round=2"],
    "fedprox": ["strategy.name=fedprox", "strategy.mu=0.1"],
    "fedadam": ["strategy.name=fedadam"],
    "scaffold": ["strategy.name=scaffold", "strategy.clients_per_round=2"],
    "fednova": ["strategy.name=fednova", *CODED],
    "autoflip": ["strategy.name=autoflip", "strategy.exploration_epochs=2", "strategy.refresh_rounds=2", *CODED],
    "pruning": ["strategy.name=pruning", "strategy.end_round=3"],
    "adp": [*IMAGES, "strategy.name=adp", "model.gates=gated"],
    "federated dropout": [*IMAGES, "submodel.name=federated-dropout", "submodel.keep=0.6", *CODED],
    "heterofl": [*IMAGES, "model.name=resnet8", "submodel.name=ordered", "submodel.keep=0.5", "submodel.scaler=true", "submodel.static_batch_norm=true",
                 'devices=[{name="a",keep=1},{name="b"}]', "rounds=2"],
    "fedgkt": ["data.synthetic_shape=[1,12,12]", "strategy.name=fedgkt", "model.name=small-client", "strategy.server_model=small-server",
               "strategy.server_epochs=1", "strategy.server_batch_size=20", "rounds=2", "uplink=[{stage=\"hadamard\"},{stage=\"quantize\",bits=4}]"],
    "evaluation at clients": ["evaluate=clients", "strategy.clients_per_round=2", "eval_clients=2"],
    "bytes / 255, augmented": [*IMAGES, "data.normalize=unit", "train.crop_padding=1", "rounds=2"],
    "adam, augmented": [*IMAGES, "train.optimizer=adam", "train.lr=0.01", "train.crop_padding=1", "train.flip=true", "rounds=2"],
}


def assignments(values):
    return [argument for value in values for argument in ("--set", value)]


class Server:
    """`espalier serve` in the background; its port is known when this is made."""

    def __init__(self, *arguments):
        self.lines = []
        self.process = subprocess.Popen([ESPALIER, "serve", *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.port = None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listening on port (\d+)", line):
                self.port = int(found[1])
                break
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def said(self):
        self.reader.join(5)
        return "".join(self.lines)

    def wait(self, code=0, timeout=240):
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            check(False, f"the server hangs:\n{self.said()}")
        check(self.process.returncode == code, f"the server ended with {self.process.returncode}:\n{self.said()}")


class Federation:
    """Certificates and shards for one configuration."""

    def __init__(self, folder, values, clients=3):
        self.folder, self.values, self.clients = folder, values, clients
        folder.mkdir()
        self.config = folder / "config.toml"
        self.config.write_text(CONFIG)
        ok(run("pki", "init", folder / "pki"))
        ok(run("pki", "issue", folder / "pki", *range(clients)))
        ok(run("data", "export", self.config, "--out", folder / "shards", *assignments(values)))

    def simulate(self):
        out = self.folder / "simulated"
        ok(run("simulate", self.config, "--out", out, "--quiet", *assignments(self.values)))
        return out

    def serve(self, *more, port=0):
        return Server(self.config, "--pki", self.folder / "pki", "--out", self.folder / "served", "--listen", f"127.0.0.1:{port}", "--set", "server.status_listen=",
                      *assignments(self.values), *more)

    def resume(self, port):
        return Server("--resume", self.folder / "served", "--listen", f"127.0.0.1:{port}", "--set", "server.status_listen=")

    def join(self, client, port, *more):
        log = open(self.folder / f"join-{client}.log", "a")
        return subprocess.Popen([ESPALIER, "join", f"localhost:{port}", "--data", str(self.folder / f"shards/client-{client}"), "--pki",
                                 str(self.folder / "pki"), "--client", str(client), "--retry-max-s", "1", *more], stdout=log, stderr=log)

    def logs(self):
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(self.folder.glob("join-*.log")))

    def rounds(self):
        metrics = self.folder / "served/metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def same(self, what):
        simulated, served = self.folder / "simulated", self.folder / "served"
        check((simulated / "model.safetensors").read_bytes() == (served / "model.safetensors").read_bytes(), f"{what}: another model\n{self.logs()}")
        keys = ("accuracy", "loss", "train_loss", "bytes_down", "bytes_up", "macs", "clients")
        lines = [[{key: json.loads(line).get(key) for key in keys} for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (simulated, served)]
        check(lines[0] == lines[1], f"{what}: other figures\n{lines[0]}\n{lines[1]}")


def end(processes, what, codes=(0,)):
    for process in processes:
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            check(False, f"{what}: a client hangs")
        check(process.returncode in codes, f"{what}: a client ended with {process.returncode}")


def identity(folder):
    for number, (name, values) in enumerate(CASES.items()):
        federation = Federation(folder / f"case-{number}", values)
        federation.simulate()
        server = federation.serve("--quiet")
        check(server.port is not None, f"{name}: {server.said()}")
        # In no particular order.
        joins = [federation.join(client, server.port) for client in (2, 0, 1)]
        server.wait()
        end(joins, name)
        federation.same(name)
        shutil.rmtree(federation.folder)


class SmallDisk:
    """A folder on a disk of its own, which is full early; where nobody may mount, an ordinary folder."""

    def __init__(self, path, kilobytes):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", path], capture_output=True).returncode == 0

    def grow(self):
        if self.mounted:
            ok(subprocess.run(["mount", "-o", "remount,size=64m", self.path], capture_output=True, text=True))

    def close(self):
        if self.mounted:
            subprocess.run(["umount", "--lazy", self.path], capture_output=True)


def faults(folder, count, seed, first=0):
    """Kills, stops and full disks of clients and server at drawn moments."""
    kinds = ["fedavg coded", "scaffold", "delta downlink", "autoflip", "residual", "ef21", "fedgkt"]
    for number in range(first, first + count):
        draw = random.Random(1000 * seed + number)
        name = kinds[number % len(kinds)]
        longer = ["rounds=4", "data.synthetic_train_samples=600"] if name == "fedgkt" else ["rounds=12", "data.synthetic_train_samples=3000", "train.epochs=2"]
        values = [*CASES[name], *longer]
        what = f"fault {number} of seed {seed} ({name})"
        federation = Federation(folder / f"fault-{number}", values)
        federation.simulate()
        full = draw.choice(["server", "client", None, None, None, None])
        disk = None
        if full == "server":
            disk = SmallDisk(federation.folder / "served", draw.choice([40, 120, 400]))
        elif full == "client":
            disk = SmallDisk(federation.folder / "shards/client-0/espalier", draw.choice([16, 40, 100]))
        try:
            one_with_faults(federation, draw, what, disk)
        finally:
            if disk:
                disk.close()
        shutil.rmtree(federation.folder)


def one_with_faults(federation, draw, what, disk):
    started, served = time.time(), federation.folder / "served"
    server = federation.serve("--quiet")
    port = server.port

    def again():
        """The server once more; anew when it ended before there was a run."""
        nonlocal server, port
        new = federation.resume(port)
        if new.port is None:
            check(re.search("no run|config.toml|is damaged|no checkpoint", new.said()), f"{what}: {new.said()}")
            for path in served.glob("*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            new = federation.serve("--quiet", port=port or 0)
            check(new.port is not None, f"{what}: {new.said()}")
        server, port = new, new.port

    def after_a_full_disk():
        """Whoever has ended for want of space goes on when there is some."""
        disk.grow()
        if server.process.poll() not in (None, 0):
            check(server.process.returncode in (1, 2) and re.search("space|write|full", server.said()), f"{what}: {server.process.returncode} {server.said()}")
            again()
        for client, process in joins.items():
            if process.poll() not in (None, 0):
                joins[client] = federation.join(client, port)
                restarted.add(client)

    if port is None:  # no room for a configuration
        check(disk is not None, f"{what}: {server.said()}")
        disk.grow()
        again()
    joins = {client: federation.join(client, port) for client in range(3)}
    restarted = set()
    for _ in range(draw.randint(1, 3)):
        before = federation.rounds()
        until = time.time() + (5 if disk else 60)
        wanted = before + draw.randint(0, 3)
        while federation.rounds() < wanted and time.time() < until and server.process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.2)
        if server.process.poll() is not None:
            break
        act = draw.choice(["client", "client", "server", "end server", "stop server", "stop client", "end client"])
        client = draw.randrange(3)
        if act == "server":
            server.process.kill()
            server.process.wait()
            time.sleep(draw.random())
            again()
        elif act == "end server":
            server.process.terminate()
            server.process.wait(120)
            if federation.rounds() == len((federation.folder / "simulated/metrics.jsonl").read_text().splitlines()):
                break
            again()
            time.sleep(1)  # clients that were told that the server was stopped have ended by now
            for one, process in joins.items():
                if process.poll() is not None:
                    joins[one] = federation.join(one, port)
                    restarted.add(one)
        elif act in ("stop client", "stop server"):
            stopped = server.process if act == "stop server" else joins[client]
            stopped.send_signal(signal.SIGSTOP)
            time.sleep(draw.random() * (5 if act == "stop server" else 2))
            stopped.send_signal(signal.SIGCONT)
        else:
            joins[client].send_signal(signal.SIGKILL if act == "client" else signal.SIGTERM)
            if joins[client].wait() != 0:  # it had not ended by itself
                joins[client] = federation.join(client, port)
                restarted.add(client)
    if disk:
        until = time.time() + 5
        while time.time() < until and server.process.poll() is None:
            time.sleep(0.01)
        after_a_full_disk()
    server.wait()
    for client, process in joins.items():
        # Killed after it was told of the end, it looks for a server that is gone: that is no hang.
        if process.poll() is None and client in restarted:
            time.sleep(3)
            if process.poll() is None and "nobody listens" in (federation.folder / f"join-{client}.log").read_text().splitlines()[-1]:
                process.terminate()
    end(joins.values(), what, codes=(0, 3))
    federation.same(what)
    check(time.time() - started < 200, f"{what}: took {time.time() - started:.0f} s")


class BadNetwork:
    """Between clients and a server: every connection meets something, drawn from a seed: a cut or a closed half at a drawn byte, a flipped bit, a stall, a slow line,
    or nothing. What it carries is TLS, so that a flipped bit is a broken connection and no damage."""

    def __init__(self, port, seed):
        self.port, self.draw, self.met = port, random.Random(seed), {}
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port), timeout=10)
            except OSError:
                return
            server.settimeout(None)
            with self.lock:
                # Handshakes are a few thousand bytes; a round of this test moves some ten thousand.
                event = self.draw.choice(["cut", "cut", "half", "flip", "stall", "slow", "nothing"])
                at, upwards = self.draw.randrange(1, 60000), self.draw.random() < 0.5
                self.met[event] = self.met.get(event, 0) + 1
            for source, target, struck in (client, server, upwards), (server, client, not upwards):
                threading.Thread(target=self.carry, args=(source, target, event if struck else "nothing", at), daemon=True).start()

    def carry(self, source, target, event, at):
        passed = 0
        try:
            while data := source.recv(16384):
                if event != "slow" and passed + len(data) > at:
                    if event == "cut":
                        break
                    if event == "half":
                        target.shutdown(socket.SHUT_WR)
                        return
                    if event == "flip":
                        data = bytearray(data)
                        data[at - passed] ^= 1
                    if event == "stall":
                        time.sleep(2.5)
                    event = "nothing"
                for i in range(0, len(data), 1024) if event == "slow" else [0]:
                    target.sendall(data[i:i + 1024] if event == "slow" else data)
                    if event == "slow":
                        time.sleep(0.002)
                passed += len(data)
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()


def bad_network(folder, seed):
    """The same bytes through connections that break, stall, crawl and lie."""
    for number, name in enumerate(["fedavg coded", "scaffold", "delta downlink"]):
        federation = Federation(folder / f"bad-{number}", [*CASES[name], "rounds=8", "model.hidden=[600]"])
        federation.simulate()
        server = federation.serve("--quiet")
        network = BadNetwork(server.port, 100 * seed + number)
        joins = [federation.join(client, network.address) for client in range(3)]
        server.wait()
        end(joins, f"bad network, {name}", codes=(0, 3))
        network.close()
        federation.same(f"bad network, {name}")
        check(sum(count for event, count in network.met.items() if event != "nothing") >= 2, f"hardly anything happened: {network.met}")
        shutil.rmtree(federation.folder)


def first_minutes(folder):
    """What goes wrong at first says what to do, in one line."""
    federation = Federation(folder / "first", ["rounds=2"])
    pki = federation.folder / "pki"

    def refused(*arguments, expected, code=2):
        result = run(*arguments, timeout=30)
        check(result.returncode == code and expected in result.stderr and len(result.stderr.splitlines()) == 1,
              f"{arguments}: exit {result.returncode}, expected '{expected}':\n{result.stderr}")

    refused("serve", federation.config, "--out", folder / "x", expected="security.ca is missing")
    refused("serve", federation.config, "--out", folder / "x", "--insecure", "--listen", "0.0.0.0:0", expected="--insecure is for this machine alone")
    refused("serve", federation.config, "--pki", pki, "--or-resume", expected="needs CONFIG and --out")
    refused("serve", federation.config, "--out", folder / "x", "--pki", pki, "--set", "network.chunks=3", expected="did you mean")
    check(not (folder / "x").exists(), "nothing is left of what never began")
    refused("join", "localhost:1", "--data", federation.folder / "shards/client-0", expected="security.ca is missing")
    refused("join", "localhost:1", "--data", federation.folder, "--pki", pki, "--client", 0, expected="train.safetensors")

    server = federation.serve("--quiet")
    busy = run("serve", federation.config, "--out", folder / "x", "--pki", pki, "--listen", f"127.0.0.1:{server.port}", timeout=30)
    check(busy.returncode == 2 and "cannot listen" in busy.stderr, busy.stderr)
    # Another CA's client, and a server whose certificate does not have this name.
    ok(run("pki", "init", federation.folder / "other"))
    ok(run("pki", "issue", federation.folder / "other", 0))
    shard = federation.folder / "shards/client-0"
    refused("join", f"localhost:{server.port}", "--data", shard, "--pki", federation.folder / "other", "--client", 0, "--folder", folder / "f1",
            expected="is not from the CA")
    ok(run("pki", "issue", pki, 7))
    refused("join", f"localhost:{server.port}", "--data", shard, "--pki", pki, "--client", 7, "--folder", folder / "f3", expected="clients 0 to 2")
    ok(run("pki", "revoke", pki, 0))
    time.sleep(1.2)
    refused("join", f"localhost:{server.port}", "--data", shard, "--pki", pki, "--client", 0, "--folder", folder / "f4", expected="revoked")
    ok(run("pki", "issue", pki, 0))
    joins = [federation.join(client, server.port) for client in range(3)]
    server.wait()
    end(joins, "after all")
    federation.simulate()
    federation.same("after all")


def module(folder):
    """A TorchScript module is a file on both sides, the same to the byte."""
    python = os.environ.get("TORCH_PYTHON")
    if not python:
        print("no module was tried: no Python with torch was found by CMake")
        return
    script = """import sys, torch
for name, width in (("module", 16), ("other", 8)):
    net = torch.nn.Sequential(torch.nn.Linear(12, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))
    torch.jit.script(net).save(f"{sys.argv[1]}/{name}.pt")
"""
    subprocess.run([python, "-c", script, folder], check=True, capture_output=True, timeout=120)
    federation = Federation(folder / "module", ["rounds=2", "model.name=torchscript", f"model.file={folder}/module.pt"])
    federation.simulate()
    server = federation.serve("--quiet")
    for more, expected in ([], "--module FILE"), (["--module", str(folder / "other.pt")], "is not the module of this run"):
        wrong = federation.join(0, server.port, "--folder", str(folder / "wrong"), *more)
        check(wrong.wait(60) == 2 and expected in federation.logs(), f"{more}: {federation.logs()}")
    time.sleep(3.5)  # the process that was client 0 is forgotten
    joins = [federation.join(client, server.port, "--module", str(folder / "module.pt")) for client in range(3)]
    server.wait()
    end(joins, "module")
    federation.same("module")


def open_population(folder):
    """Clients come and go; who was there decides, and a simulation that is told so ends in the same bytes."""
    federation = Federation(folder / "open", ["data.partition.clients=5", "strategy.clients_per_round=2", "rounds=6", "data.synthetic_train_samples=600", "train.epochs=2"], clients=5)
    more = [value for pair in (("server.population", "open"), ("server.over_selection", 1.5), ("server.select_window_s", 3), ("server.min_fraction", 0.5), ("network.lease_s", 3), ("server.goodbye_s", 3))
            for value in ("--set", f"{pair[0]}={pair[1]}")]
    server = federation.serve("--quiet", *more)
    joins = {client: federation.join(client, server.port) for client in (0, 1, 2)}
    until = time.time() + 60
    while federation.rounds() < 2 and time.time() < until:
        time.sleep(0.002)
    joins[1].kill()
    joins[4] = federation.join(4, server.port)
    server.wait()
    end([process for client, process in joins.items() if client != 1], "open population", codes=(0, 1))
    ok(run("simulate", federation.config, "--out", federation.folder / "simulated", "--quiet", "--replay", federation.folder / "served/server/events.jsonl",
           *assignments(federation.values)))
    federation.same("open population")
    closed = events(federation, "closed")
    check(any(event["answered"] == 2 and event["missing"] for event in closed), f"more were asked than needed: {closed}")
    check(not any(3 in event["clients"] for event in events(federation, "opened")), "who was never there was never asked")
    refused = run("serve", federation.config, "--pki", federation.folder / "pki", "--out", folder / "never", "--set", "server.population=open",
                  "--set", "strategy.name=scaffold", timeout=30)
    check(refused.returncode == 2 and "does not go with strategy 'scaffold'" in refused.stderr, refused.stderr)


def rules(folder):
    """A client works when its owner lets it, and says what it waits for."""
    federation = Federation(folder / "rules", ["rounds=2"])
    federation.simulate()
    server = federation.serve("--quiet")
    allowed = folder / "allowed"
    joins = [federation.join(client, server.port) for client in (0, 1)] + [federation.join(2, server.port, "--eligible", f"test -e {allowed}", "--nice", "5")]
    until = time.time() + 60
    while "waiting: the command of --eligible says no" not in federation.logs() and time.time() < until:
        time.sleep(0.05)
    check(federation.rounds() == 0, f"nobody asked: {federation.logs()}")
    allowed.touch()
    server.wait()
    end(joins, "rules")
    federation.same("rules")


def goodbye(folder):
    """SIGTERM ends after the round; clients wait, and the run goes on with them when the server is back."""
    federation = Federation(folder / "goodbye", ["rounds=200", "data.synthetic_train_samples=2000"])
    federation.simulate()
    server = federation.serve("--quiet")
    joins = [federation.join(client, server.port) for client in range(3)]
    while federation.rounds() < 3:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    server.wait(code=3)
    summary = json.loads((federation.folder / "served/summary.json").read_text())
    check(all(event["instructions"] == summary["instructions"] for event in events(federation, "joined")), "clients say how they compute")
    done = summary["rounds_completed"]
    check(3 <= done == federation.rounds() < 200, f"whole rounds: {done}")
    check("serve --resume" in server.said(), server.said())
    time.sleep(1)
    check(all(process.poll() is None for process in joins), f"they wait for the server: {federation.logs()}")
    server = federation.resume(server.port)
    server.wait()
    end(joins, "goodbye")
    federation.same("goodbye")


def events(federation, name):
    lines = (federation.folder / "served/server/events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def repeats(folder):
    """A round that too few have answered is repeated; what had come counts, over a restart of the server too."""
    federation = Federation(folder / "repeats", ["rounds=6"])
    federation.simulate()
    patient = ["--set", "server.round_deadline_s=2", "--set", "server.min_fraction=1", "--set", "server.max_attempts=60", "--set", "server.drain_s=1", "--set", "server.goodbye_s=5"]
    server = federation.serve(*patient)
    port = server.port
    joins = {client: federation.join(client, port) for client in range(3)}
    until = time.time() + 60
    while federation.rounds() < 2 and time.time() < until:
        time.sleep(0.002)
    joins[2].kill()
    joins[2].wait()
    while not any(event["attempt"] == 2 for event in events(federation, "opened")) and time.time() < until:
        time.sleep(0.05)
    check(any(event["missing"] == [2] for event in events(federation, "closed")), f"client 2 is missed: {server.said()}")
    # Drained in the middle of an attempt, and killed in the next.
    server.process.send_signal(signal.SIGTERM)
    server.wait(code=3, timeout=20)
    check("serve --resume" in server.said(), server.said())
    before = len(events(federation, "opened"))
    for client in (0, 1):
        joins[client].send_signal(signal.SIGTERM)
    end([joins[0], joins[1]], "they leave", codes=(3,))
    server = federation.resume(port)
    until = time.time() + 60
    while len(events(federation, "opened")) == before and time.time() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    # Nobody is there but what clients 0 and 1 had sent is: it is counted again.
    accepted = [event["client"] for event in events(federation, "accepted") if event["round"] == events(federation, "opened")[-1]["round"]]
    check(accepted.count(0) >= 2 and accepted.count(1) >= 2, f"the spool: {accepted}")
    server.process.kill()
    server.process.wait()
    server = federation.resume(port)
    joins = {client: federation.join(client, port) for client in range(3)}
    server.wait()
    end(joins.values(), "repeats")
    federation.same("repeats")
    check(not list((federation.folder / "served/server/spool/kept").iterdir()), "nothing is kept that is in a checkpoint")


def flat(folder, rounds, clients):
    """Many rounds cost neither memory nor descriptors."""
    federation = Federation(folder / "flat", [f"rounds={rounds}", "eval_every=50", "checkpoint_every=10", f"data.partition.clients={clients}", f"strategy.clients_per_round={clients}",
                                              f"data.synthetic_train_samples={40 * clients}", "data.partition.name=iid"], clients)
    server = federation.serve("--quiet")
    joins = [federation.join(client, server.port) for client in range(clients)]

    def look(process):
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1000, len(list(pathlib.Path(f"/proc/{process.pid}/fd").iterdir()))

    seen = {}
    for at in (rounds // 4, rounds - rounds // 20):
        until = time.time() + 400
        while federation.rounds() < at:
            check(server.process.poll() is None and time.time() < until, f"rounds pass: {federation.rounds()}\n{federation.logs()}")
            time.sleep(0.005)
        seen[at] = [look(server.process), look(joins[0])]
    server.wait()
    end(joins, "flat")
    (first, last) = seen.values()
    print(f"after rounds {list(seen)}: server {first[0]} {last[0]}, a client {first[1]} {last[1]} (MB resident, descriptors)")
    for before, after in zip(first, last):
        check(after[0] <= before[0] + 12 and after[1] <= before[1] + 3, f"it grows: {seen}")


def demo(folder):
    """scripts/demo-network, as a new user runs it but for the build."""
    config = folder / "demo.toml"
    config.write_text(CONFIG)
    out = folder / "demo"
    command = [SOURCE / "scripts/demo-network", config, "--clients", "2", "--out", out, "--set", "rounds=2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    check(result.returncode == 0 and "2 of 2 clients have joined" in result.stderr and (out / "report.html").exists(), f"{result.stdout}{result.stderr}")
    check(json.loads((out / "summary.json").read_text())["rounds_completed"] == 2, "two rounds")
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    check(again.returncode == 2 and "there already" in again.stderr, again.stderr)
    check(not running(config), "nothing is left running")


parser = argparse.ArgumentParser()
parser.add_argument("--faults", type=int, default=12)
parser.add_argument("--first", type=int, default=0, help="of the faults: to repeat one of them")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--rounds", type=int, default=200, help="of the run whose memory is watched")
parser.add_argument("--clients", type=int, default=3, help="of that run")
parser.add_argument("--only")
options = parser.parse_args()
with Folder() as folder:
    parts = {"identity": identity, "first_minutes": first_minutes, "goodbye": goodbye, "repeats": repeats, "flat": lambda path: flat(path, options.rounds, options.clients), "module": module, "rules": rules, "open_population": open_population, "bad_network": lambda path: bad_network(path, options.seed), "demo": demo,
             "faults": lambda path: faults(path, options.faults, options.seed, options.first)}
    for name, part in parts.items():
        if options.only and name != options.only:
            continue
        started = time.time()
        part(folder)
        print(f"{name}: {time.time() - started:.1f} s", flush=True)
