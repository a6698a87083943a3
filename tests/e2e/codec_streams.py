"""`espalier codec encode` and `decode`: files of tensors become messages and come back; what is wrong is said in one line."""
import json
import os
import struct

from common import SOURCE, Folder, check, ok, read_safetensors, run


def write_safetensors(path, tensors):
    """tensors: name → (type, shape, bytes)."""
    header, body = {}, b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def ramp(count):
    return floats(*((i * 7919 % 1000) / 500 - 1 for i in range(count)))


def error(a, b):
    """‖a − b‖²/‖a‖² of float32 bytes."""
    a, b = (struct.unpack(f"<{len(x) // 4}f", x) for x in (a, b))
    return sum((x - y) ** 2 for x, y in zip(a, b)) / sum(x * x for x in a)


def refused(folder, command, arguments, *expected):
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    result = run("codec", command, *arguments, cwd=folder)
    check(result.returncode == 2, f"{arguments}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    lines = result.stderr.strip().splitlines()
    check(len(lines) == 1, f"{arguments}: expected one line, got {lines}")
    for text in expected:
        check(text in lines[0], f"{arguments}: expected '{text}' in '{lines[0]}'")
    after = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    check(before == after, f"{arguments}: files were changed")


with Folder() as folder:
    encode = lambda *arguments: ok(run("codec", "encode", *arguments, cwd=folder))
    decode = lambda *arguments: ok(run("codec", "decode", *arguments, cwd=folder))
    weight, small, bias = ramp(40 * 50), ramp(12), floats(*[0.5] * 40)
    write_safetensors(folder / "model.safetensors",
                      {"z.weight": ("F32", [40, 50], weight), "a.bias": ("F32", [40], bias), "m.weight": ("F32", [3, 4], small)})

    # By roles: the large weight is coded, bias and the small weight are not.
    said = encode("--in", "model.safetensors", "--out", "model.espc", "--stages", "hadamard,quantize:bits=8").stdout
    check("3 tensors, 2052 values" in said and "times smaller" in said and len(said.splitlines()) == 1, said)
    size = (folder / "model.espc").stat().st_size
    check(2000 < size < 2500 and f"in {size} bytes" in said, f"{size} bytes")
    said = decode("--in", "model.espc", "--out", "again.safetensors", "--like", "model.safetensors").stdout
    check("(identity; hadamard,quantize)" in said, said)
    again = read_safetensors(folder / "again.safetensors")
    check(set(again) == {"z.weight", "a.bias", "m.weight"}, sorted(again))
    check(again["a.bias"] == bias and again["m.weight"] == small and 0 < error(weight, again["z.weight"]) < 1e-3, "values")

    # Without names: by position, in the order of the names.
    decode("--in", "model.espc", "--out", "nameless.safetensors")
    nameless = read_safetensors(folder / "nameless.safetensors")
    check(nameless == {"0": bias, "1": small, "2": again["z.weight"]}, "tensors by position")
    decode("--in", "model.espc", "--out", "values.f32", "--raw")
    check((folder / "values.f32").read_bytes() == bias + small + again["z.weight"], "raw values")

    # The key decides what is random and travels along; the same key gives the same bytes.
    for name, key in (("one", 1), ("two", 2), ("one_again", 1)):
        encode("--in", "model.safetensors", "--out", name, "--stages", "hadamard,quantize:bits=8", "--key", key)
    one, two, one_again = [(folder / name).read_bytes() for name in ("one", "two", "one_again")]
    check(one == one_again == (folder / "model.espc").read_bytes() and one != two, "keys")
    encode("--in", "model.safetensors", "--out", "large", "--key", 2**64 - 1)
    check(json.loads(decode("--in", "large", "--out", "x.safetensors", "--json").stdout)["key"] == 2**64 - 1, "the largest key")

    # Rules: the first that matches decides.
    said = json.loads(encode("--in", "model.safetensors", "--out", "ruled", "--stages", "hadamard,trellis:bits=3", "--rule",
                             "m.*|bias=cast", "--rule", "last=quantize:bits=4", "--json").stdout)
    check(said["stages"] == "hadamard,trellis:bits=3.0;m.*|bias=cast;last=quantize:bits=4", said["stages"])
    check(said["tensors"] == 3 and said["values"] == 2052 and said["key"] == 1 and 0 < said["vnmse"] < 0.1, said)
    said = json.loads(decode("--in", "ruled", "--out", "x.safetensors", "--like", "model.safetensors", "--json").stdout)
    check(said["pipelines"] == ["cast", "quantize:bits=4"], said["pipelines"])
    check(said["encoded_bytes"] == (folder / "ruled").stat().st_size, said)

    # Raw values: one tensor, always coded, whatever its size.
    (folder / "raw.f32").write_bytes(small)
    encode("--raw", "--in", "raw.f32", "--out", "raw.espc", "--stages", "cast", "--shape", "3,4")
    decode("--in", "raw.espc", "--out", "raw.safetensors")
    check(b'"shape":[3,4]' in (folder / "raw.safetensors").read_bytes(), "the raw tensor's shape")
    check(len((folder / "raw.espc").read_bytes()) < 22 + 24 + 24 + 12, "the raw tensor is coded")
    encode("--raw", "--in", "raw.f32", "--out", "raw.espc", "--stages", "identity")
    decode("--raw", "--in", "raw.espc", "--out", "raw_again.f32")
    check((folder / "raw_again.f32").read_bytes() == small, "identity is exact")
    # So is the only tensor of a file; `codec eval` measures it so too.
    write_safetensors(folder / "single.safetensors", {"w": ("F32", [12], small)})
    said = json.loads(encode("--in", "single.safetensors", "--out", "single.espc", "--stages", "cast", "--json").stdout)
    check(said["vnmse"] > 0, "a single tensor is coded")
    said = json.loads(ok(run("codec", "eval", "--input", folder / "single.safetensors", "--stages", "cast", "--trials", 1, "--json")).stdout)
    check(said["vnmse"] > 0, "codec eval codes a single tensor")

    # Other float types are read as float32; integers are refused, or left out when asked.
    half = struct.pack("<2e", 1.5, -2)
    write_safetensors(folder / "types.safetensors",
                      {"h": ("F16", [2], half), "d": ("F64", [1], struct.pack("<d", 0.1)), "n": ("I64", [1], struct.pack("<q", 3))})
    refused(folder, "encode", ["--in", "types.safetensors", "--out", "never"], "I64", "'n'", "--skip-integers")
    encode("--in", "types.safetensors", "--out", "types.espc", "--skip-integers")
    decode("--in", "types.espc", "--out", "types_again.safetensors", "--like", "types.safetensors")
    check(read_safetensors(folder / "types_again.safetensors") == {"h": floats(1.5, -2), "d": floats(0.1)}, "other types")

    # What is wrong with the input.
    refused(folder, "encode", ["--in", "missing", "--out", "never"], "missing")
    refused(folder, "encode", ["--in", "raw.f32", "--out", "never"], "raw.f32", "--raw")
    refused(folder, "encode", ["--in", "model.safetensors", "--out", "never", "--stages", "hadamrd"], "did you mean 'hadamard'")
    refused(folder, "encode", ["--in", "model.safetensors", "--out", "never", "--stages", "quantize:bits=99"], "at most 16")
    refused(folder, "encode", ["--in", "model.safetensors", "--out", "never", "--rule", "=cast"], "PATTERN=STAGES")
    refused(folder, "encode", ["--in", "model.safetensors", "--out", "never", "--rule", "bias"], "PATTERN=STAGES")
    refused(folder, "encode", ["--in", "model.safetensors", "--out", "never", "--shape", "3,4"], "--raw")
    refused(folder, "encode", ["--raw", "--in", "raw.f32", "--out", "never", "--shape", "3,5"], "expected 15 values", "got 12")
    refused(folder, "encode", ["--raw", "--in", "raw.f32", "--out", "never", "--shape=-3,4"], "-3")
    refused(folder, "encode", ["--in", "model.safetensors", "--out", "nowhere/x"], "nowhere")
    refused(folder, "encode", ["--in", "model.safetensors", "--out", "model.safetensors"], "another file")
    refused(folder, "encode", ["--in", "model.safetensors", "--out", "./model.safetensors"], "another file")
    os.link(folder / "model.safetensors", folder / "linked.safetensors")
    refused(folder, "encode", ["--in", "model.safetensors", "--out", "linked.safetensors"], "another file")
    for name, values in (("nan", [1, float("nan")]), ("inf", [float("inf"), 1]), ("huge", [1e30, 1])):
        (folder / name).write_bytes(floats(*values))
        refused(folder, "encode", ["--raw", "--in", name, "--out", "never"], "expected", "finite" if name != "huge" else "2^96")
    (folder / "odd").write_bytes(small[:-1])
    refused(folder, "encode", ["--raw", "--in", "odd", "--out", "never"], "47 bytes")
    (folder / "empty").write_bytes(b"")
    refused(folder, "encode", ["--raw", "--in", "empty", "--out", "never"], "at least one value")
    write_safetensors(folder / "none.safetensors", {})
    refused(folder, "encode", ["--in", "none.safetensors", "--out", "never"], "at least one value")

    # What is wrong with the message.
    for at in (4, size // 2, size - 1):
        (folder / "damaged").write_bytes(one[:at] + bytes([one[at] ^ 1]) + one[at + 1 :])
        refused(folder, "decode", ["--in", "damaged", "--out", "never"], "codec/message")
        (folder / "damaged").write_bytes(one[:at])
        refused(folder, "decode", ["--in", "damaged", "--out", "never"], "codec/message")
    refused(folder, "decode", ["--in", "model.safetensors", "--out", "never"], "not an encoded message")
    refused(folder, "decode", ["--in", "model.espc", "--out", "model.espc"], "another file")
    refused(folder, "decode", ["--in", "model.espc", "--out", "model.safetensors", "--like", "model.safetensors"], "another file")
    refused(folder, "decode", ["--in", "model.espc", "--out", "never", "--like", "single.safetensors"], "expected 1 tensors, got 3",
            "single.safetensors is not what was encoded")
    write_safetensors(folder / "shapes.safetensors",
                      {"z.weight": ("F32", [50, 40], weight), "a.bias": ("F32", [40], bias), "m.weight": ("F32", [3, 4], small)})
    refused(folder, "decode", ["--in", "model.espc", "--out", "never", "--like", "shapes.safetensors"], "[50, 40]", "[40, 50]")
    write_safetensors(folder / "names.safetensors",
                      {"z.weights": ("F32", [40, 50], weight), "a.bias": ("F32", [40], bias), "m.weight": ("F32", [3, 4], small)})
    refused(folder, "decode", ["--in", "model.espc", "--out", "never", "--like", "names.safetensors"], "other names")
    # A few bytes that claim more than anybody can hold, and a pipeline that makes no sense.
    refused(folder, "decode", ["--in", SOURCE / "tests/golden/codec/bad_many_values.msg", "--out", "never"], "allowed 1073741824 values")
    refused(folder, "decode", ["--in", SOURCE / "tests/golden/codec/bad_stage_order.msg", "--out", "never"], "too late")
    for command in ("encode", "decode"):
        check("xample" in ok(run("codec", command, "--help")).stdout, f"codec {command} --help has no example")
        check(run("codec", command).returncode == 2, f"codec {command} needs --in and --out")
print("1 passed, 0 failed")
