"""Encoded tensors, and differences of the model (docs/format.md)."""
import math
import struct

import numpy as np

from philox import child
from reading import Reader, require
from stages import Pipeline
from xxh3 import checksum


def fingerprint(layout):
    """Of (name, role, shape) of every tensor."""

    def varint(value):
        out = bytearray()
        while value >= 128:
            out.append(value % 128 | 128)
            value //= 128
        return bytes(out) + bytes([value])

    text = b""
    for name, role, shape in layout:
        name = name.encode("utf-8", "surrogateescape")
        text += struct.pack("<I", len(name)) + name + bytes([role]) + varint(len(shape)) + b"".join(map(varint, shape))
    return checksum(text)


class CodecMessage:
    """A message whose head is read and checked; decode() gives the tensors."""

    def __init__(self, data):
        reader = Reader(data)
        require(reader.take(4) == b"ESPC", "not an encoded message")
        require(reader.u8() == 1, "expected format version 1")
        require(reader.remaining() >= 4, "truncated: no checksum")
        require(int.from_bytes(data[-4:], "little") == checksum(data[:-4]), "the checksum does not match")
        reader = Reader(data[:-4])
        reader.take(5)
        self.key = reader.u64()
        count = reader.varint()
        require(count <= 64, f"{count} pipelines")
        self.pipelines = [Pipeline(reader) for _ in range(count)]
        self.fingerprint = reader.u32()
        count = reader.varint()
        require(count <= reader.remaining() // 6, f"{count} tensors do not fit")
        self.shapes, self.chosen, sizes = [], [], []
        for _ in range(count):
            rank = reader.varint()
            require(rank <= 16, f"a tensor of {rank} dimensions")
            self.shapes.append(tuple(reader.varint() for _ in range(rank)))
            require(math.prod(self.shapes[-1]) <= 2**40, "a tensor of more than 2^40 values")
            self.chosen.append(reader.varint())
            require(self.chosen[-1] < len(self.pipelines), "a pipeline that is not there")
            sizes.append(reader.u32())
        self.payloads = [reader.take(size) for size in sizes]
        reader.finish()

    def check_layout(self, layout):
        require([tuple(shape) for _, _, shape in layout] == self.shapes, "other shapes than expected")
        require(fingerprint(layout) == self.fingerprint, "other names or roles than expected")

    def decode(self, most=2**26):
        require(sum(map(math.prod, self.shapes)) <= most, f"more than the allowed {most} values")
        tensors = []
        for t, (shape, pipeline, payload) in enumerate(zip(self.shapes, self.chosen, self.payloads)):
            with np.errstate(over="ignore", invalid="ignore"):  # hostile values end as not finite
                x = self.pipelines[pipeline].decode(payload, child(self.key, t), math.prod(shape))
            tensors.append(x.reshape(shape))
        return tensors


def read_difference(data):
    """A body of the model under delta_downlink: whether it is a difference, its version, the codec message."""
    reader = Reader(data)
    kind = reader.u8()
    require(kind <= 1, f"unknown kind {kind}")
    return kind == 1, reader.u32(), CodecMessage(reader.take(reader.remaining()))


def decode_flat(data):
    """All values of a message, tensor after tensor."""
    tensors = CodecMessage(data).decode()
    return np.concatenate([t.reshape(-1) for t in tensors]) if tensors else np.zeros(0, np.float32)
