"""A model with dead units: `evaluate --runtime pruned` and `export` find the smaller network, and PyTorch runs the file."""
import json
import os
import shutil
import struct
import subprocess
import sys

from common import Folder, check, ok, read_safetensors, run

TORCH = os.environ.get("TORCH_PYTHON", "")
CNN = ["--set", "model.name=cnn", "--set", "model.width=0.5", "--set", "rounds=2"]
UNITS = {"conv1": 16, "conv2": 32, "fc1": 256}


def change(path, edit):
    """Edits a safetensors file in place: edit(name, shape, values) returns the new float32 values, or None to leave them."""
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    for name, tensor in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__" or tensor["dtype"] != "F32":
            continue
        begin, end = (8 + size + offset for offset in tensor["data_offsets"])
        values = edit(name, tensor["shape"], list(struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])))
        if values is not None:
            data[begin:end] = struct.pack(f"<{len(values)}f", *values)
    path.write_bytes(data)


def every_second_unit_dead(name, shape, values):
    """Odd units of conv1 and fc1: nothing computes them. Odd units of conv2: nothing reads them (3x3 pixels of each)."""
    if name.split(".")[0] in ("conv1", "fc1") and name != "fc1.weight":
        inner = len(values) // shape[0]
        values = [0.0 if i // inner % 2 else v for i, v in enumerate(values)]
    if name == "fc1.weight":
        values = [0.0 if i // shape[1] % 2 or i % shape[1] // 9 % 2 else v for i, v in enumerate(values)]
    return values


def run_in_torch(path, code):
    """`code` sees `module`, `about` (espalier.json) and torch; what it leaves in `out` comes back."""
    program = ("import json, sys, torch\nextra = {'espalier.json': ''}\nmodule = torch.jit.load(sys.argv[1], _extra_files=extra)\n"
               f"about = json.loads(extra['espalier.json'])\n{code}\nprint(json.dumps(out))")
    return json.loads(subprocess.run([TORCH, "-c", program, path], capture_output=True, text=True, check=True).stdout)


def write_tokens(path, count):
    """Sequences of 6 of 9 tokens; the label is the last one but one."""
    inputs = [[(5 * i + i // 7 * j + j * j) % 9 for j in range(6)] for i in range(count)]
    tensors = {"inputs": ([count, 6], [token for row in inputs for token in row]), "labels": ([count], [row[4] for row in inputs])}
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        packed = struct.pack(f"<{len(values)}q", *values)
        header[name] = {"dtype": "I64", "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


with Folder() as folder:
    ok(run("simulate", folder / "small.toml", *CNN, "--out", folder / "run", "--quiet"))

    # Nothing to remove: said plainly, and no error.
    whole = json.loads(ok(run("evaluate", folder / "run", "--runtime", "pruned", "--json")).stdout)
    dense, pruned = whole["variants"]["dense"], whole["variants"]["pruned"]
    check(whole["removed_units"] == 0 and "every unit" in whole["note"], f"nothing to remove: {whole}")
    check(dense["parameters"] == pruned["parameters"] and whole["variants"]["ratio"]["parameters"] == 1, "the same network")

    shutil.copytree(folder / "run", folder / "zeros")
    change(folder / "zeros/model.safetensors", every_second_unit_dead)
    plain = json.loads(ok(run("evaluate", folder / "zeros", "--json")).stdout)
    found = json.loads(ok(run("evaluate", folder / "zeros", "--runtime", "pruned", "--json")).stdout)
    dense, pruned, ratio = (found["variants"][name] for name in ("dense", "pruned", "ratio"))
    check(found["kept_units"] == {name: [count // 2, count] for name, count in UNITS.items()}, f"kept units: {found['kept_units']}")
    check(found["removed_units"] == sum(UNITS.values()) // 2 and found["max_logit_difference"] < 1e-5, f"agreement: {found}")
    check(dense["accuracy"] == plain["accuracy"] == pruned["accuracy"] and abs(dense["loss"] - pruned["loss"]) < 1e-5, "the same answers")
    # By hand: conv1 5x5 of 1 channel, conv2 5x5, fc1 on 3x3 pixels, fc2 to 10 classes, biases.
    count = lambda a, b, c: a * 26 + b * (25 * a + 1) + c * (9 * b + 1) + 10 * (c + 1)
    check(dense["parameters"] == count(16, 32, 256) == plain["parameters"] and pruned["parameters"] == count(8, 16, 128), f"parameters: {found}")
    macs = lambda a, b, c: 144 * 25 * a + 36 * 25 * a * b + 9 * b * c + 10 * c
    check(dense["macs_per_sample"] == macs(16, 32, 256) and pruned["macs_per_sample"] == macs(8, 16, 128), f"MACs: {found}")
    nonzero = lambda path: sum(v != 0 for data in read_safetensors(path).values() for (v,) in struct.iter_unpack("<f", data))
    check(dense["nonzero_parameters"] == nonzero(folder / "zeros/model.safetensors") < dense["parameters"], f"parameters that are not zero: {found}")
    check(pruned["nonzero_parameters"] == pruned["parameters"], f"the smaller network has no zeros: {found}")
    metadata = 400  # a run's file also says which run it is
    check(abs(dense["safetensors_bytes"] - (folder / "zeros/model.safetensors").stat().st_size) < metadata, "bytes of the file")
    check(0.2 < ratio["safetensors_bytes"] < 0.3 and 0 < ratio["seconds_per_sample_in_batch"] < 1, f"ratios: {ratio}")
    text = ok(run("evaluate", folder / "zeros", "--runtime", "pruned")).stdout
    check("pruned" in text and "macs_per_sample" in text and "ratio" in text, text)

    # Exported: the smaller network unless told otherwise.
    exported = json.loads(ok(run("export", folder / "zeros", "--out", folder / "small.pt", "--json")).stdout)
    check(exported["variants"]["pruned"]["file_bytes"] == (folder / "small.pt").stat().st_size < exported["variants"]["dense"]["file_bytes"] / 3,
          f"file bytes: {exported}")
    text = ok(run("export", folder / "zeros", "--out", folder / "dense.pt", "--runtime", "dense")).stdout
    check("file_bytes" in text and f"{exported['variants']['dense']['file_bytes'] / 1e3:.0f} KB" in text, text)
    check((folder / "dense.pt").stat().st_size == exported["variants"]["dense"]["file_bytes"], "dense file bytes")

    # An exported file is a model of ours, too: model "torchscript" starts from its weights and gets the same accuracy.
    script = ["--set", "model.name=torchscript", "--set", f"model.file={folder / 'dense.pt'}"]
    again = json.loads(ok(run("evaluate", folder / "zeros", *script, "--json")).stdout)
    check(again["accuracy"] == plain["accuracy"] and abs(again["loss"] - plain["loss"]) < 1e-4, f"evaluated as torchscript: {again}")
    ok(run("export", folder / "zeros", *script, "--out", folder / "again.pt"))
    check(json.loads(ok(run("export", folder / "zeros", *script, "--out", folder / "again.pt", "--json")).stdout)["removed_units"] > 0,
          "units of a TorchScript module are found, too")

    # What a person should know of the configuration is said as by evaluate.
    said = [line for line in ok(run("evaluate", folder / "zeros", *script)).stderr.splitlines() if line.startswith("note: ")]
    told = ok(run("export", folder / "zeros", *script, "--out", folder / "again.pt", "--json"))
    check(said and [f"note: {note}" for note in json.loads(told.stdout)["notes"]] == said, f"notes: {said} {told}")
    text = ok(run("export", folder / "zeros", *script, "--out", folder / "again.pt"))
    check(all(note in text.stderr for note in said) and "notes" not in text.stdout, f"notes: {text}")
    check("notes" not in exported, f"nothing to say: {exported}")

    # A model that cannot be narrowed says why, and nothing is written.
    group = ["--set", "model.name=resnet8", "--set", "model.norm=group", "--set", "rounds=1"]
    ok(run("simulate", folder / "small.toml", *group, "--out", folder / "group", "--quiet"))
    odd_zero = lambda name, shape, values: ([0.0 if i // (len(values) // shape[0]) % 2 else v for i, v in enumerate(values)]
                                            if name.startswith(("layer1.0.conv1", "layer1.0.bn1")) else None)
    change(folder / "group/model.safetensors", odd_zero)
    for command in (["evaluate", folder / "group", "--runtime", "pruned"], ["export", folder / "group", "--out", folder / "group.pt", "--runtime", "pruned"]):
        refused = run(*command)
        check(refused.returncode == 2 and "group normalization" in refused.stderr and "--runtime dense" in refused.stderr, f"{command}: {refused}")
    check(not (folder / "group.pt").exists(), "nothing written")
    # However small the logits are.
    shutil.copytree(folder / "group", folder / "quiet")
    change(folder / "quiet/model.safetensors", lambda name, shape, values: [v * 1e-4 for v in values] if name.startswith("fc") else None)
    refused = run("evaluate", folder / "quiet", "--runtime", "pruned")
    check(refused.returncode == 2 and "group normalization" in refused.stderr, f"small logits: {refused}")
    fallen = json.loads(ok(run("export", folder / "group", "--out", folder / "group.pt", "--json")).stdout)
    check("exported dense" in fallen["note"] and "group normalization" in fallen["note"], f"without a wish it is exported dense: {fallen}")

    # Token sequences: odd units of the LSTM that nothing reads, odd features of the embedding that are zero.
    (folder / "tokens").mkdir()
    write_tokens(folder / "tokens/train.safetensors", 400)
    write_tokens(folder / "tokens/test.safetensors", 100)
    lstm = ["--set", "data.name=safetensors", "--set", f"data.root={folder / 'tokens'}", "--set", "model.name=lstm", "--set", "rounds=1",
            "--set", "model.lstm_layers=1", "--set", "model.lstm_units=24"]
    ok(run("simulate", folder / "small.toml", *lstm, "--out", folder / "lstm", "--quiet"))
    odd_columns = lambda name, shape, values: ([0.0 if i % shape[1] % 2 else v for i, v in enumerate(values)]
                                               if name in ("embedding.weight", "lstm.weight_hh_l0", "fc.weight") else None)
    change(folder / "lstm/model.safetensors", odd_columns)
    found = json.loads(ok(run("export", folder / "lstm", "--out", folder / "lstm.pt", "--json")).stdout)
    check(found["kept_units"] == {"embedding": [4, 8], "lstm_l0": [12, 24]} and found["max_logit_difference"] < 1e-5, f"lstm: {found}")
    weights = lambda e, n: 9 * e + 4 * n * (e + n + 2) + 9 * (n + 1)
    check(found["variants"]["dense"]["parameters"] == weights(8, 24) and found["variants"]["pruned"]["parameters"] == weights(4, 12), f"lstm: {found}")

    # A model of several parts is not one network.
    ok(run("simulate", folder / "small.toml", "--set", "model.name=small-client", "--set", "strategy.name=fedgkt", "--set", "strategy.server_model=small-server",
           "--set", "strategy.server_epochs=1", "--set", "strategy.clients_per_round=20", "--set", "rounds=1", "--out", folder / "parts", "--quiet"))
    for command in (["evaluate", folder / "parts", "--runtime", "pruned"], ["export", folder / "parts", "--out", folder / "parts.pt"],
                    ["export", folder / "parts", "--out", folder / "parts.pt", "--runtime", "dense"]):
        refused = run(*command)
        check(refused.returncode == 2 and "parts" in refused.stderr and "--runtime dense" in refused.stderr, f"{command}: {refused}")
    # A model without hidden layers has nothing to narrow.
    linear = ["--set", "model.hidden=[]", "--set", "rounds=1"]
    ok(run("simulate", folder / "small.toml", *linear, "--out", folder / "linear", "--quiet"))
    refused = run("evaluate", folder / "linear", "--runtime", "pruned")
    check(refused.returncode == 2 and "no hidden layers" in refused.stderr, f"no hidden layers: {refused}")
    ok(run("export", folder / "linear", "--out", folder / "linear.pt", "--runtime", "dense"))

    if not TORCH:
        print("note: no Python with torch was found by CMake; the files were not run by PyTorch here (train.Export tests do it where there is one)")
        sys.exit(0)
    sequences = "with torch.no_grad(): out = module(torch.arange(12).reshape(2, 6) % about['vocabulary']).shape\n"
    check(run_in_torch(folder / "lstm.pt", sequences) == [2, 9], "PyTorch: the LSTM")
    code = ("with torch.no_grad():\n  x = torch.randn(5, *about['sample_shape'], generator=torch.Generator().manual_seed(1))\n"
            "  out = [module(x).flatten().tolist(), {k: list(v.shape) for k, v in module.state_dict().items()}, about]\n")
    (small, names, about), (dense, dense_names, _) = run_in_torch(folder / "small.pt", code), run_in_torch(folder / "dense.pt", code)
    check(len(small) == 50 and max(abs(a - b) for a, b in zip(small, dense)) < 1e-5 and max(map(abs, small)) > 1e-3, "PyTorch: the same logits")
    check(names["conv2.weight"] == [16, 8, 5, 5] and dense_names["conv2.weight"] == [32, 16, 5, 5], f"shapes: {names}")
    check(set(dense_names) == set(read_safetensors(folder / "zeros/model.safetensors")), "the names of model.safetensors")
    check(about["model"] == "cnn" and about["num_classes"] == 10 and about["units"] == {name: n // 2 for name, n in UNITS.items()}, f"{about}")
print("1 passed, 0 failed")
