"""What every stage wrote, back to values (docs/codec-streams.md). Decoding only; float32 arithmetic throughout, in the document's order."""
import math

import numpy as np

from gaussian import LN2, centroids, dithered_table, exp
from philox import DITHER, Stream, child, lines, signs
from rans import RansDecoder
from reading import BitReader, Reader, require, zigzag
from trellis import NEXT_STATE, trellis_table

UNIT = 65536
LARGEST = np.finfo(np.float32).max


def power_of_two(n):
    """The least that is ≥ n."""
    return 1 << max(n - 1, 0).bit_length()


def blocks(n, block):
    """The sizes of a tensor's blocks."""
    if block == 0:
        return [n] if n > 0 else []
    sizes = []
    while n > 0:
        sizes.append(n if n < 128 else min(block, 1 << (n.bit_length() - 1)))
        n -= sizes[-1]
    return sizes


def fwht(a):
    a = a.copy()
    h = 1
    while h < len(a):
        pairs = a.reshape(-1, 2, h)
        a = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        h *= 2
    return a


def flip(a, key, factor):
    a = a * factor
    return np.where(signs(key, len(a)), -a, a)


def inverse_root(n):
    return np.float32(1.0 / math.sqrt(n))


def clip(x):
    return np.clip(x, -LARGEST, LARGEST)


class Stage:
    """One stage with its options, and what it must know of those before it."""

    kind = None  # 0 alone, 1 transform, 2 sparsifier, 3 coder
    rotated = gaussian = sparsified = scaled_up = False  # what stands before
    outer_block = 0  # of the transform before
    spans_blocks = False  # a coder that gets the blocks of a unit at once

    def __init__(self, options):
        self.options = options

    def check(self):
        """Whether the stage makes sense after what stands before it."""

    def block(self):
        """As the first stage."""
        return 0

    def take(self, reader, n):
        """This stage's bytes of a block of n values."""
        return b""


class Identity(Stage):
    kind = 0

    def block(self):
        return 16384

    def take(self, reader, n):
        return reader.take(4 * n)

    def decode(self, data, key, n):
        return np.frombuffer(data, "<f4").astype(np.float32)


class Cast(Stage):
    kind = 3

    def block(self):
        return 16384

    def check(self):
        require(self.options["to"] in ("bf16", "fp16"), "an unknown type to cast to")

    def take(self, reader, n):
        return reader.take(2 * n)

    def decode(self, data, key, n):
        if self.options["to"] == "fp16":
            return np.frombuffer(data, "<f2").astype(np.float32)
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)


class Transform(Stage):
    kind = 1

    def check(self):
        require(self.options["block"] in (0, 1024, 2048, 4096), "an impossible block")

    def block(self):
        return self.options["block"]


class Hadamard(Transform):
    def check(self):
        super().check()
        require(1 <= self.options["rotations"] <= 2, "expected 1 or 2 rotations")

    def size(self, n):
        return max(power_of_two(n), 64 if self.options["block"] > 0 else 1)

    def decode(self, a, data, key, n):
        scale = inverse_root(len(a))
        for r in range(self.options["rotations"] - 1, 0, -1):
            a = flip(fwht(a), child(key, r), scale)
        return flip(fwht(a)[:n], child(key, 0), scale)


class Kashin(Transform):
    def check(self):
        super().check()
        o = self.options
        require(1 <= o["iterations"] <= 32 and 0 < o["eta"] <= 1 and 0 < o["delta"] <= 16, "impossible options of kashin")

    def size(self, n):
        size = power_of_two(n)
        return 2 * size if n > 0.85 * size else size

    def decode(self, a, data, key, n):
        size = len(a)
        moved = signs(child(key, 1), min(n, size - n)).astype(np.float32)
        a = fwht(a)
        head = slice(0, len(moved))
        a[head] = a[head] * (np.float32(1) - moved) + a[n : n + len(moved)] * moved
        return flip(a[:n], child(key, 0), inverse_root(size))


class Sparsifier(Stage):
    kind = 2

    def check(self):
        require(0 < self.options["keep"] <= 1, "expected keep in (0, 1]")

    def size(self, n):
        share = self.options["keep"] * n
        kept = math.floor(share) + (share - math.floor(share) >= 0.5)
        return min(max(kept, min(n, 1)), n)


class RandomK(Sparsifier):
    def factor(self, n, kept):
        return np.float32(1)

    def decode(self, values, data, key, n):
        out, kept = np.zeros(n, np.float32), len(values)
        if n == 0:
            return out
        stream = Stream(key)
        if self.rotated:
            places = (stream.below(n) + np.arange(kept)) % n
        else:
            places, i = [], 0
            while len(places) < kept:
                if stream.below(n - i) < kept - len(places):
                    places.append(i)
                i += 1
        out[places] = self.factor(n, kept) * values
        return out


class Subsample(RandomK):
    def factor(self, n, kept):
        return np.float32(n / kept)


class TopK(Sparsifier):
    def check(self):
        super().check()
        require(not self.rotated, "topk after a rotation")

    def take(self, reader, n):
        return reader.take(reader.varint()) if n > 0 else b""

    def decode(self, values, data, key, n):
        out = np.zeros(n, np.float32)
        if n == 0:
            return out
        require(len(data) > 0 and data[0] <= 32, "an impossible Rice parameter")
        rice, bits, place = data[0], BitReader(data[1:]), 0
        for value in values:
            gap = 0
            while bits.get(1):
                gap += 1
            place += gap << rice | bits.get(rice)
            require(place < n, "a position beyond the end")
            out[place] = value
            place += 1
        require(bits.left < 8 and bits.bits == 0, "unexpected bits after the positions")
        return out


class Quantize(Stage):
    kind = 3
    first = False

    def check(self):
        require(1 <= self.options["bits"] <= 16, "expected bits of at least 1 and at most 16")
        require(self.options["block"] in (0, 1024, 2048, 4096), "an impossible block")
        require(self.options["block"] == 0 or self.first, "block belongs to the first stage")

    def block(self):
        return self.options["block"]

    def short_ends(self, n):
        return self.rotated and n <= 4096

    def take(self, reader, n):
        return reader.take((4 if self.short_ends(n) else 8) + -(-n * self.options["bits"] // 8)) if n > 0 else b""

    def decode(self, data, key, n):
        if n == 0:
            return np.zeros(0, np.float32)
        size = 4 if self.short_ends(n) else 8
        if size == 4:
            low, high = (np.frombuffer(data, "<u2", 2).astype(np.uint32) << 16).view(np.float32)
        else:
            low, high = np.frombuffer(data, "<f4", 2)
        require(-(2.0**117) <= low <= high <= 2.0**117, f"impossible ends {low} and {high}")
        levels = np.float32(2 ** self.options["bits"] - 1)
        width = high - low
        lift = np.float32(2.0**60) if width < np.float32(2.0**-100) else np.float32(1)
        codes = self.codes(data[size:], n).astype(np.float32)
        return codes * (width * lift / levels) * (np.float32(1) / lift) + low

    def codes(self, data, n):
        bits = self.options["bits"]
        whole = n // 512
        words = np.frombuffer(data, "<u4", 16 * bits * whole).reshape(whole, bits, 16)
        columns = np.unpackbits(words.transpose(0, 2, 1).copy().view(np.uint8), axis=-1, bitorder="little")
        codes = columns.reshape(whole, 16, 32, bits).transpose(0, 2, 1, 3).reshape(-1, bits)
        rest = np.unpackbits(np.frombuffer(data[64 * bits * whole :], np.uint8), bitorder="little")
        codes = np.concatenate([codes, rest[: (n % 512) * bits].reshape(-1, bits)])
        return codes.astype(np.int64) @ (1 << np.arange(bits))


class GaussianCoder(Stage):
    """Codes of coordinates that are about N(0, σ²), in blocks with a scale each."""

    kind = 3
    limits = (0, 0)

    def check(self):
        low, high = self.limits
        require(low <= self.options["bits"] <= high, f"expected bits of at least {low} and at most {high}")
        require(not self.rotated or self.gaussian, "a code for Gaussian coordinates after kashin")

    def coder_blocks(self, n):
        block = 4096 if self.outer_block == 0 or self.sparsified else min(self.outer_block, 4096)
        return [min(block, n - begin) for begin in range(0, n, block)], block

    @staticmethod
    def scales(reader, count):
        codes = np.frombuffer(reader.take(2 * count), "<u2").astype(np.uint32)
        values = (codes << 15).view(np.float32)
        require(all(v == 0 or 2.0**-120 <= v <= 2.0**120 for v in values), "an impossible scale")
        return values


class Eden(GaussianCoder):
    limits = (1, 8)

    def check(self):
        super().check()
        require(self.gaussian, "eden without a rotation")
        require(self.options["unbiased"] or not self.scaled_up, "a biased eden after subsample")
        self.levels = int(exp(self.options["bits"] * LN2) + 0.5)
        self.group, self.group_bits = 1, (self.levels - 1).bit_length()
        if self.levels & (self.levels - 1):
            g = 2
            while (self.levels**g - 1).bit_length() <= 56:
                if (self.levels**g - 1).bit_length() * self.group < self.group_bits * g:
                    self.group, self.group_bits = g, (self.levels**g - 1).bit_length()
                g += 1

    def widths(self, n):
        """(indices, bits) of every group of n indices."""
        rest = n % self.group
        return [(self.group, self.group_bits)] * (n // self.group) + [(rest, (self.levels**rest - 1).bit_length())] * (rest > 0)

    def bytes_of(self, n):
        return -(-sum(bits for _, bits in self.widths(n)) // 8)

    def take(self, reader, n):
        sizes, _ = self.coder_blocks(n)
        return reader.take(2 * len(sizes) + sum(map(self.bytes_of, sizes)))

    def decode(self, data, key, n):
        reader, out = Reader(data), []
        sizes, _ = self.coder_blocks(n)
        for size, scale in zip(sizes, self.scales(reader, len(sizes))):
            bits, indices = BitReader(reader.take(self.bytes_of(size))), []
            for count, width in self.widths(size):
                value = bits.get(width)
                for _ in range(count):
                    indices.append(value % self.levels)
                    value //= self.levels
                require(value == 0, "impossible indices")
            require(bits.bits == 0, "impossible indices")
            out.append(clip(centroids(self.levels)[indices] * scale))
        return np.concatenate(out) if out else np.zeros(0, np.float32)


class EntropyCoder(GaussianCoder):
    spans_blocks = True

    def block(self):
        return 4096

    def take(self, reader, n):
        return reader.take(reader.u32())

    def decode(self, data, key, n):
        reader, out = Reader(data), np.zeros(n, np.float32)
        sizes, block = self.coder_blocks(n)
        scales = self.scales(reader, len(sizes))
        coded = [(b * block, sizes[b], scales[b]) for b in range(len(sizes)) if scales[b] != 0]
        if coded:
            self.decode_blocks(reader, key, coded, out)
        reader.finish()
        return out

    @staticmethod
    def escape(reader):
        value = zigzag(reader.varint())
        require(-(2**31) <= value < 2**31, "an escaped integer beyond 32 bits")
        return value


class Dithered(EntropyCoder):
    limits = (0.25, 8)

    def decode_blocks(self, reader, key, coded, out):
        table = dithered_table(self.options["bits"])
        count = sum(size for _, size, _ in coded)
        low_bits = BitReader(reader.take(-(-count * table.raw // 8)))
        decoder = RansDecoder(table.frequencies, table.precision, count, reader)
        words = lines(key, DITHER, 10, len(out))
        u = ((words.view(np.int32) >> 8).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-24)
        negative = words >= 2**31
        contexts = np.where(negative, ~words, words) // np.uint32(2**31 // table.bins)
        half, escapes, integers = 2**table.raw // 2, [], np.zeros(len(out), np.int64)
        for begin, size, _ in coded:
            for i in range(begin, begin + size):
                symbol, low = decoder.symbol(contexts[i]), low_bits.get(table.raw)
                if symbol == 2 * table.reach + 1:
                    escapes.append(i)
                integers[i] = (symbol - table.reach << table.raw) + low - half
        for i in escapes:
            low = (integers[i] + half) % 2**table.raw
            integers[i] = (self.escape(reader) << table.raw) + low - half
            require(-(2**31) <= integers[i] < 2**31, "an escaped integer beyond 32 bits")
        for begin, size, scale in coded:
            part = slice(begin, begin + size)
            k = np.where(negative[part], -integers[part], integers[part]).astype(np.float32)
            out[part] = clip((k - u[part]) * np.float32(float(scale) * table.step))
        decoder.finish()


class Trellis(EntropyCoder):
    limits = (0.25, 7)

    def check(self):
        super().check()
        require(self.gaussian, "trellis without a rotation")
        require(not self.scaled_up, "trellis after subsample")

    def decode_blocks(self, reader, key, coded, out):
        table = trellis_table(self.options["bits"])
        reach = table.reach
        decoder = RansDecoder(table.frequencies, table.precision, sum(size for _, size, _ in coded), reader)
        per_frame = max(1, 16384 // self.coder_blocks(1)[1])
        places, levels, scales = [], [], []
        for first in range(0, len(coded), per_frame):
            states, at = [0] * 32, 0
            for begin, size, scale in coded[first : first + per_frame]:
                for i in range(begin, begin + size):
                    state = states[at % 32]
                    symbol = decoder.symbol(state)
                    states[at % 32] = NEXT_STATE[state][symbol & 1]
                    places.append(i)
                    levels.append((symbol, state))
                    scales.append(scale)
                    at += 1
        for j, (symbol, state) in enumerate(levels):
            k = symbol - reach
            if symbol > 2 * reach:
                escape = self.escape(reader)
                k = escape + reach + 1 if escape >= 0 else escape - reach
                require(k & 1 == symbol & 1, "an escaped integer of the wrong parity")
            levels[j] = 2 * k - ((k > 0) - (k < 0) if state >= 2 else 0)
        out[places] = clip(np.array(levels, np.float32) * np.array(scales, np.float32))
        decoder.finish()


INTEGER, NUMBER, BOOLEAN, WORD = range(4)
STAGES = {  # number on the wire: class, options in order
    0: (Identity, []),
    1: (Hadamard, [("block", INTEGER), ("rotations", INTEGER)]),
    2: (Kashin, [("iterations", INTEGER), ("eta", NUMBER), ("delta", NUMBER), ("clip_last", BOOLEAN), ("block", INTEGER)]),
    3: (Subsample, [("keep", NUMBER)]),
    4: (Quantize, [("bits", INTEGER), ("block", INTEGER)]),
    5: (Eden, [("bits", NUMBER), ("unbiased", BOOLEAN)]),
    6: (Dithered, [("bits", NUMBER)]),
    7: (Trellis, [("bits", NUMBER)]),
    8: (TopK, [("keep", NUMBER)]),
    9: (RandomK, [("keep", NUMBER)]),
    10: (Cast, [("to", WORD)]),
}


def read_stage(reader):
    number = reader.u8()
    options = Reader(reader.take(reader.varint()))
    require(number in STAGES, f"unknown stage number {number}")
    made, fields = STAGES[number]
    values = {}
    for name, kind in fields:
        if kind == INTEGER:
            values[name] = zigzag(options.varint())
        elif kind == NUMBER:
            values[name] = options.f64()
        elif kind == BOOLEAN:
            values[name] = options.u8() != 0
        else:
            values[name] = options.take(options.varint()).decode("latin-1")
    options.finish()
    return made(values)


class Pipeline:
    def __init__(self, reader):
        count = reader.varint()
        require(count <= 3, f"a pipeline of {count} stages")
        stages = [read_stage(reader) for _ in range(count)]
        kinds = [stage.kind for stage in stages]
        require(0 not in kinds or len(kinds) == 1, "identity stands alone")
        require(kinds == sorted(set(kinds)), "a stage comes too late, or twice")
        if kinds[-1:] not in ([0], [3]):
            stages.append(Identity({}))
        for i, stage in enumerate(stages):
            before = stages[:i]
            stage.first = i == 0
            stage.rotated = any(isinstance(s, Transform) for s in before)
            stage.gaussian = any(isinstance(s, Hadamard) for s in before)
            stage.sparsified = any(isinstance(s, Sparsifier) for s in before)
            stage.scaled_up = any(isinstance(s, Subsample) for s in before)
            stage.outer_block = stages[0].block() if stage.rotated else 0
            stage.check()
        self.before, self.coder = stages[:-1], stages[-1]
        self.block = stages[0].block()

    def units(self, n):
        """(number of the first block, sizes of the blocks) of every unit."""
        sizes = blocks(n, self.block)
        if not self.coder.spans_blocks or self.block == 0:
            return [(b, [size]) for b, size in enumerate(sizes)]
        units, first = [], 0
        while first < len(sizes):
            end, total = first, 0
            while end < len(sizes) and total < UNIT:
                total += sizes[end]
                end += 1
            units.append((first, sizes[first:end]))
            first = end
        return units

    def decode(self, payload, key, n):
        reader, parts = Reader(payload), []
        for first, sizes in self.units(n):
            taken, widths = [], []  # by block: bytes and sizes by stage
            for size in sizes:
                steps = [size]
                taken.append([])
                for stage in self.before:
                    taken[-1].append(stage.take(reader, steps[-1]))
                    steps.append(stage.size(steps[-1]))
                widths.append(steps)
            total = sum(steps[-1] for steps in widths)
            key_of_coder = child(child(key, first), len(self.before))
            values = self.coder.decode(self.coder.take(reader, total), key_of_coder, total)
            used = 0
            for b, steps in enumerate(widths):
                a = values[used : used + steps[-1]]
                used += steps[-1]
                for s in range(len(self.before) - 1, -1, -1):
                    a = self.before[s].decode(a, taken[b][s], child(child(key, first + b), s), steps[s])
                parts.append(a)
        reader.finish()
        x = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        require(bool(np.isfinite(x).all()), "a decoded value is not finite")
        return x
