"""A model with gates: trained, evaluated in its three forms, refused where there are no gates."""
import json

from common import Folder, check, ok, run

GATES = ("--set", "model.name=cnn", "--set", "model.width=0.25", "--set", "model.gates=gated", "--set", "model.gate_ratio=0.5", "--set", "rounds=2")

with Folder() as folder:
    config = folder / "small.toml"
    ok(run("simulate", config, *GATES, "--out", folder / "gated", "--quiet"))
    found = json.loads(ok(run("evaluate", folder / "gated", "--runtime", "gated", "--json")).stdout)
    dense, masked, gated = (found["variants"][name] for name in ("dense", "masked", "gated"))
    trained = json.loads(ok(run("evaluate", folder / "gated", "--json")).stdout)
    check(found["ratio"] == 0.5 and found["samples"] == 200, f"what was evaluated: {found}")
    check(masked["accuracy"] == gated["accuracy"] == trained["accuracy"], "skipping changes no prediction")
    check(found["max_logit_difference"] <= 1e-5 * max(1, found["largest_logit"]), "skipping changes no logit")
    check(0 < gated["macs_per_sample"] < 0.8 * dense["macs_per_sample"] < masked["macs_per_sample"], "multiplications are left out")
    check(gated["median_macs_per_sample"] <= gated["p95_macs_per_sample"] <= masked["macs_per_sample"], "percentiles")
    check(all(0 < form["seconds_per_sample_alone"] <= form["p95_seconds_per_sample_alone"] for form in (dense, masked, gated)), "latencies")
    check({found["batch_1"], found["batch_8"]} <= {"gated", "masked"} and found["batch_8_seconds_per_sample"] > 0, "the automatic choice is shown")
    text = ok(run("evaluate", folder / "gated", "--runtime", "gated")).stdout
    check(all(word in text for word in ("dense", "masked", "gated", "p95_seconds_per_sample_alone", "macs_per_sample", "speedup")), "printed for a person")

    ok(run("simulate", config, "--set", "rounds=1", "--out", folder / "plain", "--quiet"))
    refused = run("evaluate", folder / "plain", "--runtime", "gated")
    check(refused.returncode == 2 and "without gates" in refused.stderr and "--runtime" in refused.stderr
          and len(refused.stderr.strip().splitlines()) == 1, f"a model without gates: {refused.stderr}")
