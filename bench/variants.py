#!/usr/bin/env python3
"""Experiments of several variants and seeds: accuracy by round, bytes and multiply-accumulates, mean and standard deviation over seeds.

    bench/variants.py EXPERIMENT [--seeds 3] [--only VARIANT …] [--results FILE]

Finished runs are kept in FILE (JSON lines, runs/EXPERIMENT.jsonl) and not run again; the table is printed from it.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAPER = {"downlink": '[{stage="hadamard"},{stage="quantize",bits=4}]', "uplink": '[{stage="hadamard"},{stage="quantize",bits=2}]'}
GENTLE = {"downlink": '[{stage="hadamard"},{stage="trellis",bits=2.75}]', "uplink": '[{stage="hadamard"},{stage="dithered",bits=0.9}]'}
OURS = {"downlink": '[{stage="hadamard"},{stage="trellis",bits=2.5}]', "uplink": '[{stage="hadamard"},{stage="dithered",bits=0.5}]'}
DROPOUT = {"submodel.name": "federated-dropout", "submodel.keep": 0.75}
WIDTHS = {"a": 1, "b": 0.5, "c": 0.25, "d": 0.125, "e": 0.0625}

DROPOUT_VARIANTS = {
    "FedAvg, float32": {},
    "dropout .75, float32": DROPOUT,
    "dropout .75, Hadamard 4/2 bits": {**DROPOUT, **PAPER},
    "dropout .75, trellis 2.75 / dithered 0.9 bits": {**DROPOUT, **GENTLE},
    "dropout .75, trellis 2.5 / dithered 0.5 bits": {**DROPOUT, **OURS},
}

FOUR_BITS = '[{stage="hadamard"},{stage="quantize",bits=4}]'
AVERAGED = {"strategy": '{name="fedavg", clients_per_round=8}'}
FEDGKT_VARIANTS = {
    "FedGKT, float32 features": {},
    "FedGKT, 4-bit features": {"uplink": FOUR_BITS},
    "FedGKT, 4-bit features, server distillation": {"uplink": FOUR_BITS, "strategy.server_distillation": "true"},
    "FedGKT, 4-bit features of half the samples": {"uplink": FOUR_BITS, "strategy.sample_fraction": 0.5},
    "small net, FedAvg": AVERAGED,
    # Without the server's logits a client trains by itself; what it uploads all the same is of no use to it.
    "small net, alone": {"own": True, "strategy.alpha": 0, "strategy.server_epochs": 1},
    "large net, FedAvg": {**AVERAGED, "model.name": "small-gkt"},
    "large net, centrally": {"strategy": '{name="fedavg", clients_per_round=1}', "model.name": "small-gkt", "data.partition": '{name="iid", clients=1}', "train.batch_size": 64},
}

# When everybody keeps the same share, the first units are simply a smaller net, and that is what is evaluated.
SMALLER = {"submodel.name": "ordered", "submodel.keep": 0.75, "submodel.eval_widths": "[0.75]", **GENTLE}

def pruned(sparsity, **more):
    """Another criterion in AutoFLIP's place: same server, same sparsity."""
    return {"strategy": f'{{name="pruning", clients_per_round=5, server_momentum=0.9, sparsity={sparsity}, ' + ", ".join(f"{k}={json.dumps(v)}" for k, v in more.items()) + "}"}


# 20 clients explore for 10 epochs what 5 clients train for 5 in a round: 8 rounds.
PLAIN = '{name="fedavg", clients_per_round=5}'
AUTOFLIP_VARIANTS = {
    "FedAvg": {"strategy": PLAIN},
    "FedAvg, 8 rounds more": {"strategy": PLAIN, "rounds": 48},
    "server momentum, 8 rounds more": {**pruned(0, criterion="random"), "rounds": 48},
    "AutoFLIP .3": {},
    "AutoFLIP .5": {"strategy.sparsity": 0.5},
    "AutoFLIP robust .5": {"strategy.sparsity": 0.5, "strategy.guidance": "robust"},
    "random .3": pruned(0.3, criterion="random"),
    "random .5": pruned(0.5, criterion="random"),
    "magnitude at round 5 .3": pruned(0.3, start_round=5),
    "magnitude at round 5 .5": pruned(0.5, start_round=5),
    # The baseline of AutoFLIP's released code: more zeros, and other ones at every step, so its updates are dense.
    "random steps .45": pruned(0.45, criterion="random-step"),
}


def adp(base, mode):
    gates = "none" if mode == "magnitude" else mode
    return {"strategy": f'{{name="adp", clients_per_round=10, base="{base}", mode="{mode}"}}', "model.gates": gates, "model.gate_sigmoid": str(gates != "none").lower()}


ADP_BASES = {"fedavg": {}, "fedprox": {}, "scaffold": {"train.momentum": 0, "train.lr": 0.05}}
ADP_VARIANTS = {}
for base, own in ADP_BASES.items():
    plain = {"strategy": f'{{name="{base}", clients_per_round=10}}'}
    ADP_VARIANTS[f"{base}, dense"] = {**own, **plain}
    for mode in ("gated", "fbs", "magnitude"):
        ADP_VARIANTS[f"{base}, {mode}"] = {**own, **adp(base, mode)}

ADP_VARIANTS["fedavg, dense, 4/2 bits"] = {**ADP_VARIANTS["fedavg, dense"], **PAPER}
ADP_VARIANTS["fedavg, gated, 4/2 bits"] = {**ADP_VARIANTS["fedavg, gated"], **PAPER}

# name: (configuration, {variant: settings})
EXPERIMENTS = {
    "fd-mnist": ("fd_mnist.toml", DROPOUT_VARIANTS),
    # Few channels and few rounds: dividing by the clients that trained a value learns faster here than the paper's sum.
    "fd-cifar10": ("fd_cifar10.toml", {name: {**v, "submodel.aggregation": "count"} if v else v for name, v in DROPOUT_VARIANTS.items()} | {"first .75, trellis 2.75 / dithered 0.9 bits": SMALLER}),
    "fedgkt-fashion-mnist": ("fedgkt_fashion-mnist.toml", FEDGKT_VARIANTS),
    "fedgkt-cifar10": ("fedgkt_cifar10.toml", FEDGKT_VARIANTS),
    "autoflip-fashion-mnist": ("autoflip_fashion-mnist.toml", AUTOFLIP_VARIANTS),
    "autoflip-cifar10": ("autoflip_cifar10.toml", AUTOFLIP_VARIANTS),
    "adp-cifar10": ("adp_cifar10.toml", ADP_VARIANTS),
    "heterofl": (
        "heterofl_cifar10.toml",
        {
            "ordered": {},
            "ordered, nested widths": {"submodel.widths": "[0.0625, 0.125, 0.25, 0.5]"},
            "rolling": {"submodel.name": "rolling"},
            "random": {"submodel.name": "federated-dropout", "submodel.aggregation": "count"},
            # Each width alone: the clients of its device train a model of that width, two per round as on average above.
            **{f"width {keep} alone": {"alone": name, "model.width": keep} for name, keep in WIDTHS.items()},
        },
    ),
}

# Accuracies for which rounds and bytes are printed.
TARGETS = {"adp-cifar10": (0.25, 0.3, 0.35)}


def settings_of(variant):
    """A variant's settings as --set arguments; "alone" keeps the devices, and so who has which, but trains one of them."""
    settings = {key: value for key, value in variant.items() if key != "own"}
    if "alone" in settings:
        settings |= {"strategy.device": settings.pop("alone"), "submodel.name": "none", "submodel.eval_widths": "[]", "strategy.clients_per_round": 2}
        settings["devices"] = "[" + ", ".join(f'{{name="{name}"}}' for name in WIDTHS) + "]"
    return [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]


def run(arguments, config, variant, seed):
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.espalier, "simulate", ROOT / "bench" / config, "--set", f"seed={seed}", *settings_of(variant), "--out", f"{folder}/run", "--json", "--quiet"]
        if arguments.threads:
            command += ["--threads", str(arguments.threads)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        lines = [json.loads(line) for line in pathlib.Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()]
    summary = json.loads(done.stdout)
    if summary["clients_failed"] > 0:
        raise SystemExit(f"{summary['clients_failed']} clients failed: " + done.stderr)
    return {
        "seed": seed,
        # A net that nobody shares is as accurate as its owners' own figure.
        "accuracy": [line["client_accuracy" if "own" in variant else "accuracy"] for line in lines if "accuracy" in line],
        "bytes": [line["bytes_down_total"] + line["bytes_up_total"] for line in lines if "accuracy" in line],
        # Of FedGKT: what its clients reach with their own nets, which "alone" means.
        "client_accuracy": lines[-1].get("client_accuracy"),
        "server_seconds": sum(line.get("server_seconds", 0) for line in lines) / len(lines),
        "shares": {key: lines[-1][key] for key in ("mask_kept", "sent_share") if key in lines[-1]},
        "widths": {key: value for key, value in lines[-1].items() if key.startswith("accuracy_at_")},
        "summary": {key: value for key, value in summary.items() if isinstance(value, (int, float))},
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--results")
    parser.add_argument("--threads", type=int, default=0, help="clients trained at a time; the results do not depend on it")
    parser.add_argument("--espalier", default=ROOT / "build/release/bin/espalier")
    arguments = parser.parse_args()
    config, variants = EXPERIMENTS[arguments.experiment]
    results = pathlib.Path(arguments.results or ROOT / f"runs/{arguments.experiment}.jsonl")
    results.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for seed in range(1, arguments.seeds + 1):
        for name in arguments.only or variants:
            if any(row["variant"] == name and row["seed"] == seed for row in rows):
                continue
            row = {"variant": name, **run(arguments, config, variants[name], seed)}
            rows.append(row)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"seed {seed}  {name:44} {row['accuracy'][-1]:.4f}  {row['summary']['wall_seconds']:.0f} s", flush=True)
    show(arguments.experiment, variants, rows)


def mean(values):
    return statistics.mean(values)


def show(experiment, variants, rows):
    def average(name, key):
        # Rows of earlier releases may lack a figure.
        return mean([row["summary"][key] for row in rows if row["variant"] == name and key in row["summary"]] or [0])

    first = next((name for name in variants if any(row["variant"] == name for row in rows)), None)
    print(f"\n{experiment}: accuracy at each evaluation (mean), final mean ± sd, bytes per client and round against float32, MACs per update")
    for name in variants:
        mine = [row for row in rows if row["variant"] == name]
        if not mine:
            continue
        final = [100 * row["accuracy"][-1] for row in mine]
        curve = "/".join(f"{100 * mean([row['accuracy'][i] for row in mine]):.1f}" for i in range(len(mine[0]["accuracy"])))
        spread = statistics.stdev(final) if len(final) > 1 else 0
        # Weights in float32; for FedGKT, which sends none, there is nothing to compare with.
        dense = next((row["summary"]["dense_bytes_per_client_round"] for row in mine if "dense_bytes_per_client_round" in row["summary"]), 0)
        down, up = average(name, "bytes_down_per_client_round"), average(name, "bytes_up_per_client_round")
        # Of the rounds' training; explorations are named below.
        macs = [(average(n, "client_macs_total") - average(n, "exploration_macs")) / average(n, "client_updates") for n in (first, name)]
        print(f"{name:46} {curve}  {mean(final):.2f} ± {spread:.2f} ({len(mine)} seeds)  down {down / 1e3:.0f} KB ({dense / down:.1f}x)  "
              f"up {up / 1e3:.0f} KB ({dense / up:.1f}x)  {macs[1] / 1e9:.1f} GMAC ({macs[0] / macs[1]:.2f}x)  "
              f"{average(name, 'client_train_seconds') / average(name, 'client_updates'):.2f} client s  {mean([row['bytes'][-1] for row in mine]) / 1e6:.1f} MB in all")
        for key in sorted({key for row in mine for key in row.get("shares", {})}):
            print(f"    {key}: {mean([row['shares'][key] for row in mine if key in row.get('shares', {})]):.4f}")
        if mine[0].get("client_accuracy") is not None:
            own = [100 * row["client_accuracy"] for row in mine]
            print(f"    clients' own nets: {mean(own):.2f}, server {mean([row['server_seconds'] for row in mine]):.1f} s per round")
        last = [100 * mean(row["accuracy"][-5:]) for row in mine]
        if len(mine[0]["accuracy"]) >= 10:
            print(f"    mean of the last five evaluations: {mean(last):.2f} ± {statistics.stdev(last) if len(last) > 1 else 0:.2f}, best {mean([100 * max(row['accuracy']) for row in mine]):.2f}")
        if average(name, "exploration_macs"):
            print(f"    exploration: {average(name, 'exploration_macs') / 1e9:.0f} of {average(name, 'client_macs_total') / 1e9:.0f} GMAC, {(average(name, 'exploration_bytes_down') + average(name, 'exploration_bytes_up')) / 1e6:.1f} MB")
        for target in TARGETS.get(experiment, ()):
            reached = [next(((i + 1, row["bytes"][i]) for i, accuracy in enumerate(row["accuracy"]) if accuracy >= target), None) for row in mine]
            found = [both for both in reached if both]
            figures = f" after {mean([r for r, _ in found]):.1f} evaluations, {mean([b for _, b in found]) / 1e6:.1f} MB" if found else ""
            print(f"    {100 * target:.0f} % reached by {len(found)} of {len(mine)} seeds{figures}")
        widths = sorted({key for row in mine for key in row["widths"]})
        if widths:
            print("    " + "  ".join(f"{key[12:]}: {100 * mean([row['widths'][key] for row in mine]):.2f}" for key in widths))


main()
