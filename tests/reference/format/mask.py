"""Masks: which values of a layout are kept (docs/format.md, "Masks")."""
import bisect
import math

import numpy as np

from reading import Reader, require

LOWEST, HIGHEST = 2**19, 2**32 - 2**19 - 1
CLASSES = [0, 2, 7, 16, 32, 48, 57, 62]


def share_class(share):
    return bisect.bisect_right(CLASSES, share // 1024) - 1


class BitModel:
    def __init__(self, share):
        self.probability = min(max(int(share * 2.0**32), LOWEST), HIGHEST)
        self.seen = 6

    def update(self, bit):
        target = HIGHEST if bit else LOWEST
        self.probability += (target - self.probability) * (131072 // (2 * self.seen + 3)) // 65536
        self.seen = min(self.seen + 1, 1023)


class ArithmeticDecoder:
    """`rest` is the number read minus `low`, in 64 bits."""

    def __init__(self, data):
        self.data, self.at = data, 8
        self.low, self.range = 0, 2**64 - 1
        self.rest = int.from_bytes(data[:8].ljust(8, b"\0"), "big")
        self.inside = self.rest < self.range

    def bit(self, model):
        bound = (self.range // 65536) * (model.probability // 65536)
        bit = self.rest < bound
        if bit:
            self.range = bound
        else:
            self.rest, self.low, self.range = self.rest - bound, (self.low + bound) % 2**64, self.range - bound
        if self.range < 2**32:
            word = int.from_bytes(self.data[self.at : self.at + 4].ljust(4, b"\0"), "big")
            self.at += 4
            self.rest, self.low, self.range = (self.rest << 32 | word) % 2**64, (self.low << 32) % 2**64, self.range << 32
        model.update(bit)
        return int(bit)

    def finish(self):
        """The stream must be the very one that the encoder writes for these bits."""
        require(self.inside and self.at >= len(self.data) and self.data[-1:] != b"\0", "not the bytes of these bits")
        for size in range(8):  # the number that ends in the most zero bytes, the least such
            end = -self.low % 2 ** (64 - 8 * size)
            if end < self.range:
                break
        else:
            end = 0
        require(self.rest == end, "not the bytes of these bits")


def decode_bits(coder, rows, columns, ones):
    share = ones / (rows * columns)
    models = [BitModel(share) for _ in range(256)]
    start = int(share * 65535)
    column_shares = [start & ~1] * columns
    bits = np.zeros((rows, columns), bool)
    for r in range(rows):
        row_share, left = start, 0
        for c in range(columns):
            context = 2 * share_class(row_share) + left
            if rows > 1:
                column = column_shares[c]
                context += 32 * share_class(column) + 16 * (column & 1)
            bit = coder.bit(models[context])
            if rows > 1:
                column_shares[c] = (column + 65535 * bit // 16 - column // 16) & ~1 | bit
            row_share += 65535 * left // 32
            row_share -= row_share // 32
            left = bit
            bits[r, c] = bit
    require(int(bits.sum()) == ones, "another number of ones than the head says")
    return bits


def decode_mask(data, layout):
    """A truth value for every value, by tensor; layout: (name, role, shape) of every tensor."""
    reader = Reader(data)
    heads = []
    for _, _, shape in layout:
        size = math.prod(shape)
        rows = shape[0] if len(shape) >= 2 and size > 0 else 1
        columns = size // rows
        kind, ones = 0, 0
        if size > 0:
            kind = reader.u8()
            require(kind <= 3, f"unknown kind {kind} of a mask")
        if kind >= 2:
            ones = reader.varint()
            require(kind == 3 or (rows > 1 and columns > 1), "a mask of rows where there can be none")
            require(1 <= ones < (rows if kind == 2 else size), "an impossible number of ones")
        heads.append((kind, ones, rows, columns))
    coder = ArithmeticDecoder(reader.take(reader.remaining()))
    masks = []
    for (_, _, shape), (kind, ones, rows, columns) in zip(layout, heads):
        if kind < 2:
            bits = np.full((rows, columns), kind == 1)
        elif kind == 2:
            bits = np.repeat(decode_bits(coder, 1, rows, ones).reshape(rows, 1), columns, axis=1)
        else:
            bits = decode_bits(coder, rows, columns, ones)
            whole = rows > 1 and columns > 1 and bool((bits == bits[:, :1]).all())
            require(not whole, "a mask of single values that is one of rows")
        masks.append(bits.reshape(shape))
    coder.finish()
    return masks


def compact_layout(layout, masks):
    """What travels under a mask: the kept values alone."""
    return [(name, role, shape if mask.all() else (int(mask.sum()),)) for (name, role, shape), mask in zip(layout, masks)]


def expand(masks, tensors):
    full = []
    for mask, values in zip(masks, tensors):
        full.append(np.zeros(mask.shape, np.float32))
        full[-1][mask] = values.reshape(-1)
    return full
