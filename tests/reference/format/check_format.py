"""The documents against the program: a decoder made from docs/format.md and docs/codec-streams.md reads every golden message, fresh
ones of every stage, damaged ones, and the files of a run. ESPALIER is the program, SOURCE the repository."""
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

import numpy as np

import gaussian
import philox
from codec_message import CodecMessage, decode_flat, fingerprint
from mask import decode_mask
from reading import FormatError
from round_message import decode_task, decode_update, read_stream
from state_files import read_checkpoint, read_state
from trellis import trellis_table
from xxh3 import checksum

ESPALIER, SOURCE = os.environ["ESPALIER"], pathlib.Path(os.environ["SOURCE"])
GOLDEN = SOURCE / "tests/golden"

# One of every stage, and pipelines that people use; each is tried on the tensors of make_tensors().
PIPELINES = """identity
cast
cast:to=fp16
hadamard
hadamard:block=1024:rotations=2
hadamard:block=0:rotations=2,quantize:bits=3
hadamard:block=2048,quantize:bits=4
kashin
kashin:block=0:iterations=5,quantize:bits=1
kashin:block=4096:clip_last=true,quantize:bits=2
kashin,subsample:keep=0.4,quantize:bits=6
subsample:keep=0.25
subsample:keep=0.3,dithered:bits=1
hadamard,subsample:keep=0.3,quantize:bits=4
randomk:keep=0.2,quantize:bits=10
hadamard:block=0,randomk:keep=0.1
topk:keep=0.01
topk:keep=0.3,quantize:bits=8
topk:keep=0.5,dithered:bits=3
quantize:bits=1:block=1024
quantize:bits=5
quantize:bits=7:block=4096
quantize:bits=16
hadamard,eden:bits=1
hadamard:block=1024,eden:bits=1.585
hadamard:block=0:rotations=2,eden:bits=2.585:unbiased=false
hadamard,subsample:keep=0.5,eden:bits=5.3
hadamard,eden:bits=8
hadamard,dithered:bits=0.25
hadamard:block=1024,dithered:bits=2
hadamard:block=0,dithered:bits=4.6
dithered:bits=6.5
hadamard,dithered:bits=7.25
hadamard,trellis:bits=0.5
hadamard:block=1024,randomk:keep=0.5,trellis:bits=2
hadamard:block=0,trellis:bits=3
hadamard,trellis:bits=6.5""".split()
GROUP, DAMAGES = 8, 4


def check(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def refused(decode, *arguments):
    try:
        decode(*arguments)
    except FormatError as error:
        return str(error)
    return None


def espalier(*arguments):
    return subprocess.run([ESPALIER, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def ok(result):
    check(result.returncode == 0, f"{result.args}: {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def same_bits(a, b):
    return len(a) == len(b) and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def same_values(a, b):
    """The same bits, but for what a program makes that takes numbers below 2^-126 for 0, as ours may."""
    differ = a.view(np.uint32) != b.view(np.uint32)
    return len(a) == len(b) and bool((np.abs(a[differ].astype(float) - b[differ]) < 2.0**-126).all())


def write_safetensors(path, tensors):
    header, body = {}, b""
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(body), len(body) + values.nbytes]}
        body += values.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def golden_codec():
    good = sorted((GOLDEN / "codec").glob("v*.msg"))
    check(len(good) >= 14, "golden messages are missing")
    for file in good:
        expected = np.frombuffer(file.with_suffix(".f32").read_bytes(), np.float32)
        check(same_bits(decode_flat(file.read_bytes()), expected), f"{file.name} decodes to other values")
    bad = sorted((GOLDEN / "codec").glob("bad_*.msg"))
    check(len(bad) >= 15, "broken golden messages are missing")
    for file in bad:
        check(refused(decode_flat, file.read_bytes()), f"{file.name} is accepted")

    # The inputs, as the document describes them.
    words = np.array([stream.word() for stream in [philox.Stream(2024)] for _ in range(2 * 6219)], np.uint64)
    parts = (words >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
    x = parts[0::2] + parts[1::2] - np.float32(1)
    x[-1] = 17
    identity = (GOLDEN / "codec/v1_identity.msg").read_bytes()
    check(same_bits(decode_flat(identity), x), "the golden inputs are others than the document says")
    layout = [("conv.weight", 0, (8, 4, 5, 5)), ("conv.bias", 1, (8,)), ("fc.weight", 0, (10, 541)), ("count", 5, ())]
    check(CodecMessage(identity).fingerprint == fingerprint(layout), "the fingerprint is another than the document says")
    check(CodecMessage(identity).key == 0x0123456789ABCDEF, "the golden key")
    return len(good) + len(bad)


def golden_wire():
    layout = [("w", 0, (3, 2)), ("b", 1, (3,))]
    values = [[[1, 2], [3, 4], [5, 6]], [7, 8, 9]]
    read = lambda name: (GOLDEN / "wire" / name).read_bytes()
    said = lambda payload: [tensor.tolist() for tensor in payload.tensors]
    task = decode_task(read("task_v4.bin"), layout)
    check((task.kind, task.id, task.state_version, task.client_key, task.keeps_state) == (0, (7, 1, 42), 5, 11, True), "a task's head")
    check((task.algorithm, task.options) == ("fedprox", {"mu": 0.5, "weighting": "uniform"}), "a task's algorithm")
    check((task.step, task.scalars) == ({"lr": 0.25, "epochs": 2, "nesterov": True}, {"refresh": 1}), "a task's records")
    check(said(task.payloads["model"]) == values, "a task's model")
    update = decode_update(read("update_v4.bin"), layout)
    check((update.id, update.num_samples, update.scalars) == ((7, 1, 42), 30, {"macs": 1000}), "an update's head")
    check(said(update.payloads["delta"]) == values and update.payloads["delta"].weight == 30, "an update's payload")

    # With a mask of its own, a part of the model, a payload with its own layout and a difference of the model.
    kept = [[[1, 0], [0, 4], [5, 6]], [7, 8, 9]]
    task = decode_task(read("task_v4_mask.bin"), layout)
    check(task.mask_round == 6 and said(task.payloads["model"]) == kept, "a task with a mask")
    masks = task.masks
    task = decode_task(read("task_v4_held_mask.bin"), layout, lambda round: {6: masks}[round])
    check(task.mask_round == 6 and said(task.payloads["model"]) == kept, "a task under a mask that is held")
    check(refused(decode_task, read("task_v4_held_mask.bin"), layout), "a mask that nobody holds")
    update = decode_update(read("update_v4_mask.bin"), layout)
    check(update.mask_round == 7 and said(update.payloads["delta"]) == kept, "an update with a mask")
    narrow = [("w", 0, (2, 2)), ("b", 1, (2,))]
    task = decode_task(read("task_v4_part.bin"), narrow)
    check((task.kind, task.units, task.widths) == (2, [2], [[1], [2]]), "a task for a part of the model")
    check(task.training == {"distillation": 0.5, "masked": True, "temperature": 2.0}, "the training of a part")
    check(said(task.payloads["model"]) == [[[1, 2], [3, 4]], [7, 8]], "a part of the model")
    extra = task.payloads["extra"]
    check(extra.layout == [("ids", 5, (3,))] and said(extra) == [[3, 1, 2]], "a payload with a layout of its own")
    task = decode_task(read("task_v4_difference.bin"), layout)
    model = task.payloads["model"]
    check((model.is_difference, model.version, said(model)) == (True, 2, values), "a difference of the model")

    for name, decode in (("task", decode_task), ("update", decode_update)):
        check("expected version 4, got 3" in (refused(decode, read(f"{name}_v3.bin"), layout) or ""), f"a {name} of version 3")
        whole = read(f"{name}_v4.bin")
        for size in range(len(whole)):
            check(refused(decode, whole[:size], layout), f"the first {size} bytes of a {name} are accepted")
        head_size = 4 + len(read_stream(whole)[0])
        for at in range(4, head_size):
            damaged = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
            check(refused(decode, damaged, layout), f"a {name} with a damaged byte {at} is accepted")
    check(refused(decode_update, read("task_v4.bin"), layout), "a task for an update")
    mask_layout = [("w", 0, (4, 4)), ("b", 1, (4,)), ("fc", 0, (3, 2))]
    mask = bytes.fromhex("030b010202824a07")
    check([m.astype(int).tolist() for m in decode_mask(mask, mask_layout)] ==
          [[[1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0], [1, 1, 0, 1]], [1] * 4, [[1, 1], [0, 0], [1, 1]]], "the mask of the document")
    others = [mask[:at] + bytes([mask[at] ^ 1 << bit]) + mask[at + 1 :] for at in range(len(mask)) for bit in range(8)]
    others += [mask[:at] for at in range(len(mask))] + [mask + bytes([last]) for last in range(256)]
    accepted = [other for other in others if not refused(decode_mask, other, mask_layout)]
    check(len(accepted) < len(others) // 4, "damaged masks are accepted")
    for other in accepted:  # one mask, one spelling
        same = zip(decode_mask(other, mask_layout), decode_mask(mask, mask_layout))
        check(not all((a == b).all() for a, b in same), f"another spelling of a mask: {other.hex()}")


def document_values():
    """The test values at the end of docs/codec-streams.md are expressions in the terms of the document."""

    def stream(key):
        made = philox.Stream(key)
        return [made.word() for _ in range(8)]

    def below(key, n):
        made = philox.Stream(key)
        return [made.below(n) for _ in range(4)]

    def table(made):
        return made.reach, checksum(np.array(sum(made.frequencies, []), "<u2").tobytes())

    terms = {
        "child": philox.child,
        "stream": stream,
        "lines": lambda key, domain, rounds: philox.lines(key, domain, rounds, 64).tolist(),
        "below": below,
        "signs": lambda key: "".join("01"[int(s)] for s in philox.signs(key, 24)),
        "checksum": lambda text: checksum(text.encode()),
        "exp": gaussian.exp,
        "log2": gaussian.log2,
        "tail": gaussian.tail,
        "quantile": gaussian.quantile,
        "centroids": lambda levels: [float(c) for c in gaussian.centroids(levels)],
        "step": lambda bits: gaussian.dithered_table(bits).step,
        "dithered": lambda bits: table(gaussian.dithered_table(bits)),
        "trellis": lambda bits: table(trellis_table(bits)),
    }
    text = (SOURCE / "docs/codec-streams.md").read_text().split("## Test values")[1]
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", text, re.M)
    check(len(rows) >= 15, "the document has no test values")
    for expression, expected in rows:
        value = eval(expression, dict(terms))
        check(value == eval(expected), f"{expression} is {value!r}, not {expected}")
    return len(rows)


def make_tensors(seed):
    random = np.random.default_rng(seed)
    normal = lambda *shape: random.standard_normal(shape).astype(np.float32)
    spiky = normal(3, 700)
    spiky[1, ::97] *= 300
    flat = np.zeros((2, 4096), np.float32)
    flat[1, 5] = 3
    tensors = {
        "a": normal(),
        "b": normal(7),
        "c": spiky,
        "d": flat,
        "e": normal(9, 0, 2),
        "f": normal(11, 1023) * np.float32(1e-3),
        "g": np.abs(normal(640)) * np.float32(2.0**-110),  # ranges below 2^-100
        "h": np.full(129, 2.5, np.float32),
    }
    if seed % 5 == 4:  # more than one unit
        tensors["z"] = normal(67001)
    return tensors


def fresh_streams(folder):
    """What `codec encode` writes, `codec decode` and the decoder here read to the same values; damage is judged alike."""
    random = np.random.default_rng(5)
    tried = {stage.split(":")[0] for stages in PIPELINES for stage in stages.split(",")}
    known = set(json.loads(ok(espalier("list", "codecs", "--json")).stdout))
    check(tried == known, f"stages that are not tried, or not there: {tried ^ known}")
    source, message, values = folder / "in.safetensors", folder / "message", folder / "values"
    damaged_ones = 0
    for first in range(0, len(PIPELINES), GROUP):  # several pipelines per message: starting the program takes longest
        tensors, rules = {}, []
        for number, stages in enumerate(PIPELINES[first : first + GROUP], first):
            tensors |= {f"{number}.{name}": x for name, x in make_tensors(number).items()}
            rules += ["--rule", f"{number}.*={stages}"]
        layout = [(name, 1 if x.ndim < 2 else 0, x.shape) for name, x in sorted(tensors.items())]
        key = int(random.integers(2**63)) * 2 + 1
        write_safetensors(source, tensors)
        said = json.loads(ok(espalier("codec", "encode", "--in", source, "--out", message, *rules, "--key", key, "--json")).stdout)
        data = message.read_bytes()
        check(said["encoded_bytes"] == len(data), f"group {first}: size")
        ok(espalier("codec", "decode", "--raw", "--in", message, "--out", values))
        expected = np.split(np.fromfile(values, np.float32), np.cumsum([x.size for _, x in sorted(tensors.items())])[:-1])
        coded = CodecMessage(data)
        check(coded.key == key, f"group {first}: key")
        coded.check_layout(layout)
        for (name, _, _), x, theirs in zip(layout, coded.decode(), expected):
            stages = PIPELINES[int(name.split(".")[0])]
            check(same_values(x.reshape(-1), theirs), f"{stages}, {name}: the program decodes to other values than the document says")

        # Changed bytes of payloads under a good checksum.
        starts = len(data) - 4 - sum(map(len, coded.payloads)) + np.cumsum([0, *map(len, coded.payloads)])
        for _ in range(DAMAGES):
            t = int(random.choice([t for t, payload in enumerate(coded.payloads) if payload]))
            at, bit = int(random.integers(starts[t], starts[t + 1])), 1 << int(random.integers(8))
            damaged = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 : -4]
            message.write_bytes(damaged + struct.pack("<I", checksum(damaged)))
            result = espalier("codec", "decode", "--raw", "--in", message, "--out", values)
            where = f"{PIPELINES[int(layout[t][0].split('.')[0])]}, {layout[t][0]}, bit {bit} of byte {at - starts[t]}"
            check(result.returncode in (0, 2), f"{where}: {result.stderr}")
            try:
                ours = decode_flat(message.read_bytes())
                check(result.returncode == 0, f"{where}: accepted here, but {result.stderr}")
                check(same_values(ours, np.fromfile(values, np.float32)), f"{where}: damaged values")
            except FormatError as error:
                check(result.returncode == 2, f"{where}: refused here alone: {error}")
            damaged_ones += 1
    return len(PIPELINES), damaged_ones


RUN = """
seed = 7
rounds = 3
error_feedback = "residual"
[data]
name = "synthetic"
synthetic_train_samples = 200
synthetic_test_samples = 50
synthetic_shape = [1, 6, 6]
[data.partition]
name = "iid"
clients = 3
[model]
name = "mlp"
hidden = [24]
[strategy]
name = "pruning"
sparsity = 0.6
clients_per_round = 3
[[uplink]]
stage = "topk"
keep = 0.5
"""


def files_of_a_run(folder):
    """Checkpoint and client states; the mask that clients hold is that of the model."""
    (folder / "run.toml").write_text(RUN)
    ok(espalier("simulate", folder / "run.toml", "--out", folder / "run", "--quiet"))
    tensors, metadata = read_checkpoint((folder / "run/checkpoint/checkpoint.safetensors").read_bytes())
    check(metadata["round"] == "3", "the checkpoint's round")
    layout = [(name[6:], 1 if x.ndim < 2 else 0, x.shape) for name, x in tensors.items() if name.startswith("model/")]
    for client, version in tensors["state_versions"].tolist():
        state = (folder / f"run/checkpoint/clients/{client}-{version}.state").read_bytes()
        sets, blobs = read_state(state)
        check([(name, role, x.shape) for name, role, x in sets["feedback.delta"]] == layout, "the residual's layout")
        check(int.from_bytes(blobs["held.mask"][:4], "little") >= 1, "the mask's round")
        masks = decode_mask(blobs["held.mask"][4:], layout)
        check(0 < sum(int(m.sum()) for m in masks) < sum(m.size for m in masks), "a mask that prunes")
        for (name, _, _), mask in zip(layout, masks):
            check(not tensors["model/" + name][~mask].any(), f"{name} has values where the mask has none")
        check(refused(read_state, state[:-1]), "a state that was cut")
    return len(tensors["state_versions"])


def main():
    print(f"{golden_codec()} golden codec messages")
    golden_wire()
    print("golden messages of a round")
    print(f"{document_values()} test values of the document")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        read, damaged = fresh_streams(folder)
        print(f"{read} fresh messages, {damaged} damaged ones")
        print(f"{files_of_a_run(folder)} client states")
    print("1 passed, 0 failed")


main()
