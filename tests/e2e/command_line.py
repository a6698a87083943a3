"""The command line as a person uses it: simulate, resume, evaluate, compare, report, list; thread counts give the same bytes."""
import json

from common import Folder, check, metrics, ok, read_safetensors, run

SUMMARY_KEYS = ("strategy seed rounds_completed final_accuracy best_accuracy final_loss bytes_down_total bytes_up_total "
                "bytes_down_per_client_round bytes_up_per_client_round dense_bytes_per_client_round client_macs_total eval_macs_total "
                "client_updates client_updates_per_second wall_seconds train_seconds peak_rss_bytes clients_failed").split()

with Folder() as folder:
    config = folder / "small.toml"
    result = ok(run("simulate", config, "--out", folder / "one", "--threads", 1, "--json"))
    summary = json.loads(result.stdout)
    check(all(key in summary for key in SUMMARY_KEYS), f"summary keys: {sorted(summary)}")
    check(summary == {**json.loads((folder / "one/summary.json").read_text()), **{k: summary[k] for k in ("run", "wall_seconds", "peak_rss_bytes", "memory_bytes")}},
          "summary.json differs from --json")
    parts, peak = summary["memory_bytes"], summary["peak_rss_bytes"]
    check(all(size >= 0 for size in parts.values()) and abs(sum(parts.values()) - peak) < 0.05 * peak and parts["other"] < 0.3 * peak,
          f"the parts of the memory do not add up to {peak}: {parts}")
    for name in ("config.toml", "metrics.jsonl", "summary.json", "model.safetensors", "checkpoint/checkpoint.safetensors", "report.html"):
        check((folder / "one" / name).exists(), f"{name} is missing")
    check(len(metrics(folder / "one")) == 6, "one metrics line per round")
    # Every round evaluates the same samples, so that each layer's products of one are a whole number.
    per_sample = json.loads(ok(run("evaluate", folder / "one", "--json")).stdout)
    check(summary["eval_macs_total"] == 6 * per_sample["samples"] * per_sample["macs_per_sample"] > 0, f"products of evaluation: {summary} {per_sample}")
    check(summary["client_updates"] == 30 and summary["clients_failed"] == 0, "client updates")
    check(summary["bytes_down_total"] > 30 * summary["dense_bytes_per_client_round"], "dense bytes travel down")

    model, saved = read_safetensors(folder / "one/model.safetensors"), read_safetensors(folder / "one/checkpoint/checkpoint.safetensors")
    check(all(saved["model/" + name] == values for name, values in model.items()), "the checkpoint holds the model")

    # Any number of threads: the same bytes.
    for threads in (2, 5):
        ok(run("simulate", config, "--out", folder / f"threads{threads}", "--threads", threads, "--quiet"))
        check((folder / f"threads{threads}/model.safetensors").read_bytes() == (folder / "one/model.safetensors").read_bytes(),
              f"{threads} threads gave other bytes")

    # The resolved configuration reproduces the run.
    ok(run("simulate", folder / "one/config.toml", "--out", folder / "again", "--quiet"))
    check((folder / "again/model.safetensors").read_bytes() == (folder / "one/model.safetensors").read_bytes(), "config.toml reproduces")

    # Half a run, extended: equal to the whole one.
    ok(run("simulate", config, "--set", "rounds=3", "--out", folder / "half", "--quiet"))
    ok(run("simulate", "--resume", folder / "half", "--set", "rounds=6", "--quiet"))
    check((folder / "half/model.safetensors").read_bytes() == (folder / "one/model.safetensors").read_bytes(), "resumed bytes")
    timeless = [{k: v for k, v in line.items() if "seconds" not in k and "rss" not in k} for line in metrics(folder / "half")]
    check(timeless == [{k: v for k, v in line.items() if "seconds" not in k and "rss" not in k} for line in metrics(folder / "one")],
          "metrics of the resumed run")

    # Evaluations by clients are in the totals, and not in what an update costs.
    asked = json.loads(ok(run("simulate", config, "--set", "evaluate=clients", "--out", folder / "asked", "--json")).stdout)
    check(all(asked[f"bytes_{way}_per_client_round"] == summary[f"bytes_{way}_per_client_round"] for way in ("down", "up")), f"bytes of evaluations: {asked}")
    check(asked["bytes_down_total"] == summary["bytes_down_total"] + asked["evaluation_bytes_down"] and asked["evaluation_bytes_up"] > 0
          and asked["client_macs_total"] == summary["client_macs_total"] + asked["evaluation_macs"] > summary["client_macs_total"], f"evaluations: {asked}")

    # Every strategy runs, and another seed is another run.
    for name in json.loads(ok(run("list", "strategies", "--json")).stdout):
        nets = ["--set", "model.name=small-client", "--set", "strategy.server_model=small-server", "--set", "strategy.server_epochs=1",
                "--set", "strategy.clients_per_round=20"]
        gates = ["--set", "model.name=cnn", "--set", "model.width=0.25", "--set", "model.gates=gated"]
        own = {"fedgkt": nets, "adp": gates, "autoflip": ["--set", "strategy.exploration_epochs=2"]}.get(name, [])
        ok(run("simulate", config, "--set", f"strategy.name={name}", *own, "--set", "rounds=2",
               "--out", folder / name, "--quiet"))
    # A model of several parts is evaluated later to the same figure.
    later = json.loads(ok(run("evaluate", folder / "fedgkt", "--json")).stdout)
    check(abs(later["accuracy"] - json.loads((folder / "fedgkt/summary.json").read_text())["final_accuracy"]) < 1e-9, "evaluate agrees with FedGKT's run")
    small = json.loads((folder / "fedgkt/summary.json").read_text())
    check(later["parameters"] == small["parameters"] and later["server_parameters"] == small["server_parameters"] > 10 * small["parameters"]
          and later["server_macs_per_sample"] > 10 * later["macs_per_sample"] and "share of the test samples" in later["note"], "both nets are counted")
    check(metrics(folder / "fedgkt")[-1]["eval_seconds"] > 0, "FedGKT's evaluation takes time")
    unknown = run("simulat", config)
    check(unknown.returncode == 2 and unknown.stderr.count("\n") == 1 and "did you mean 'simulate'" in unknown.stderr, "a misspelled command")
    deeper = run("codec", "encod")
    check(deeper.returncode == 2 and "did you mean 'encode'" in deeper.stderr and "espalier codec --help" in deeper.stderr, "a misspelled command: " + deeper.stderr)
    silent = ["--set", "strategy.name=fedgkt", *nets, "--set", "rounds=2", "--quiet"]
    ok(run("simulate", config, *silent, "--set", "evaluate=none", "--out", folder / "silent"))
    lines = metrics(folder / "silent")
    check(all("accuracy" not in line for line in lines) and lines[-1]["bytes_up"] < metrics(folder / "fedgkt")[-1]["bytes_up"], "nobody evaluates where nobody asks")
    named = run("simulate", config, *silent, "--set", 'uplink=[{for="featurs*",stage="cast"}]', "--out", folder / "named")
    check(named.returncode == 2 and "unknown tensor 'featurs*'" in named.stderr, "FedGKT's tensors have names: " + named.stderr)
    missing = run("simulate", "--out")
    check(missing.returncode == 2 and missing.stderr.count("\n") == 1 and "espalier simulate --help" in missing.stderr, "one line: " + missing.stderr)
    for wrong in (["--rule", "zzz=cast"], []):
        coded = run("codec", "encode", "--in", folder / "one/model.safetensors", "--out", folder / "coded.espc", "--stages", "cast", *wrong, "--skip-integers")
        check(coded.returncode == (2 if wrong else 0) and (not wrong or "unknown tensor 'zzz'" in coded.stderr), "rules name tensors: " + coded.stderr)
    ok(run("simulate", config, "--set", "seed=8", "--out", folder / "seed8", "--quiet"))
    check((folder / "seed8/model.safetensors").read_bytes() != (folder / "one/model.safetensors").read_bytes(), "seeds differ")

    evaluated = json.loads(ok(run("evaluate", folder / "one", "--json")).stdout)
    check(abs(evaluated["accuracy"] - summary["final_accuracy"]) < 1e-12, "evaluate agrees with the run")

    compared = ok(run("compare", folder / "one", folder / "fedprox", "--html", folder / "compare.html"))
    check("fedprox" in compared.stdout and (folder / "compare.html").stat().st_size > 10000, "comparison")
    json.loads(ok(run("compare", folder / "one", folder / "fedprox", "--json")).stdout)
    ok(run("report", folder / "one", "--html", folder / "report.html"))

    for kind in ("strategies", "codecs", "models", "datasets", "partitions", "submodels", "criteria", "options"):
        check(len(json.loads(ok(run("list", kind, "--json")).stdout)) > 0, kind)
        ok(run("list", kind))
    for command in ("", "simulate", "study", "compare", "report", "evaluate", "list", "data", "codec"):
        text = ok(run(*command.split(), "--help")).stdout
        check("xample" in text, f"{command} --help has no example")
    check(ok(run("--version")).stdout.startswith("espalier "), "version")
print("1 passed, 0 failed")
