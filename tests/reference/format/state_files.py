"""Checkpoints and the states of clients: safetensors files with checksums (docs/format.md, "Checkpoints")."""
import json

import numpy as np

from reading import Reader, require
from xxh3 import checksum

TYPES = {"F32": "<f4", "U8": "u1", "U64": "<u8", "I64": "<i8"}


def read_safetensors(data):
    """Tensors by name in the order of the data, and the metadata."""
    reader = Reader(data)
    header = json.loads(reader.take(reader.u64()))
    metadata = header.pop("__metadata__", {})
    body = reader.take(reader.remaining())
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(body[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def read_checkpoint(data):
    tensors, metadata = read_safetensors(data)
    require(metadata.get("format") == "espalier-checkpoint-1", "not a checkpoint of version 1")
    text = "".join(f"{key}={value}\n" for key, value in sorted(metadata.items()) if key != "checksum")
    text += "".join(f"{name}={checksum(tensor.tobytes())}\n" for name, tensor in sorted(tensors.items()))
    require(metadata["checksum"] == str(checksum(text.encode())), "the checkpoint's checksum does not match")
    return tensors, metadata


def read_state(data):
    """Sets as {name: [(tensor, role, values)]}, and bytes by name."""
    require(len(data) >= 4 and int.from_bytes(data[-4:], "little") == checksum(data[:-4]), "the state's checksum does not match")
    sets, blobs = {}, {}
    for name, values in read_safetensors(data[:-4])[0].items():
        owner, role, tensor = name.split("/", 2)
        if role == "b" and tensor == "":
            blobs[owner] = values.tobytes()
        else:
            sets.setdefault(owner, []).append((tensor, int(role), values))
    return sets, blobs
