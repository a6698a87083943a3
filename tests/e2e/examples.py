"""Every example whose data are there runs as it stands, for two rounds; one and two threads end in the same model bytes."""
import pathlib
import sys
import tempfile

from common import SOURCE, check, metrics, ok, run

ran, missing = [], []
for example in sorted((SOURCE / "examples").glob("*.toml")):
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        # Shorter where it may be, otherwise as it stands: whoever changes the example's keys changes what is tested.
        arguments = ["simulate", example, "--set", "rounds=2", "--set", "train.max_steps=10", "--quiet"]
        first = run(*arguments, "--threads", 1, "--out", folder / "one", cwd=SOURCE, timeout=300)
        if first.returncode == 2 and "espalier data fetch" in first.stderr:
            missing.append(example.stem)
            continue
        ok(first)
        ok(run(*arguments, "--threads", 2, "--out", folder / "two", cwd=SOURCE, timeout=300))
        check((folder / "one/model.safetensors").read_bytes() == (folder / "two/model.safetensors").read_bytes(),
              f"{example.name}: one and two threads gave other bytes")
        check(len(metrics(folder / "two")) == 2 and all(line["clients_failed"] == 0 for line in metrics(folder / "two")), example.name)
        ran.append(example.stem)
print(f"ran {', '.join(ran) or 'none'}; no data here for {', '.join(missing) or 'none'}")
if not ran:
    sys.exit(77)
check("federated-dropout" in ran, "Fashion-MNIST is there, but the example did not run")
