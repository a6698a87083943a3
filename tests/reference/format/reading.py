"""Bytes from anybody, read in order: every malformed form ends in a FormatError (docs/format.md)."""
import struct


class FormatError(Exception):
    """The bytes are no such message."""


def require(condition, reason):
    if not condition:
        raise FormatError(reason)


def zigzag(value):
    """0, 1, 2, 3, … as 0, −1, 1, −2, …"""
    return value >> 1 if value % 2 == 0 else -(value + 1) // 2


class Reader:
    def __init__(self, data):
        self.data = bytes(data)
        self.at = 0

    def remaining(self):
        return len(self.data) - self.at

    def take(self, size):
        require(size <= self.remaining(), f"truncated: expected {size} more bytes, got {self.remaining()}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def u8(self):
        return self.number("B")

    def u16(self):
        return self.number("H")

    def u32(self):
        return self.number("I")

    def u64(self):
        return self.number("Q")

    def i64(self):
        return self.number("q")

    def f64(self):
        return self.number("d")

    def varint(self):
        value = 0
        for shift in range(0, 64, 7):
            byte = self.u8()
            require(shift < 63 or byte <= 1, "a variable-length integer beyond 64 bits")
            value |= (byte & 127) << shift
            if byte < 128:
                require(byte > 0 or shift == 0, "a variable-length integer longer than necessary")
                return value
        raise FormatError("a variable-length integer of more than ten bytes")

    def string(self):
        size = self.u32()
        require(size <= 1024, f"a string of {size} bytes")
        return self.take(size).decode("utf-8", "surrogateescape")

    def finish(self):
        require(self.remaining() == 0, f"{self.remaining()} unexpected bytes at the end")


class BitReader:
    """Bits from the lowest of the first byte on."""

    def __init__(self, data):
        self.bits = int.from_bytes(data, "little")
        self.left = 8 * len(data)

    def get(self, count):
        require(count <= self.left, "truncated bits")
        value = self.bits & ((1 << count) - 1)
        self.bits >>= count
        self.left -= count
        return value
