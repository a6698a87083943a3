"""Random numbers as functions of keys (docs/codec-streams.md, "Random numbers")."""
import functools

import numpy as np

SIGNS, ROUNDING, DITHER = 0x5349474E, 0x524E444E, 0  # domains of lines()


def philox(counters, domain, key, rounds):
    """The four words of each block: counters of 64 bits → array [block, 4]."""
    low, shift = np.uint64(2**32 - 1), np.uint64(32)
    counters = np.asarray(counters, np.uint64)
    c0, c1 = counters & low, counters >> shift
    c2, c3 = np.full_like(c0, domain), np.zeros_like(c0)
    k0, k1 = key & (2**32 - 1), key >> 32
    for _ in range(rounds):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> shift) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


@functools.lru_cache(maxsize=65536)
def child(key, tag):
    words = philox([tag], 0x45535041, key, 10)[0]
    return int(words[0]) | int(words[1]) << 32


def lines(key, domain, rounds, count):
    """The first `count` words."""
    number = -(-count // 64)
    blocks = philox(np.arange(16 * number), domain, key, rounds).reshape(number, 16, 4)
    return blocks.transpose(0, 2, 1).reshape(-1)[:count]


class Stream:
    """The words of a key, one after the other."""

    def __init__(self, key, at_once=1024):
        self.key, self.block, self.at_once, self.words = key, 0, at_once, []

    def word(self):
        if not self.words:
            blocks = philox(np.arange(self.block, self.block + self.at_once), 0, self.key, 10)
            self.block += self.at_once
            self.words = blocks.reshape(-1)[::-1].tolist()
        return self.words.pop()

    def below(self, n):
        if n < 2**32:
            product = self.word() * n
            while product % 2**32 < 2**32 % n:
                product = self.word() * n
            return product >> 32
        limit = (2**64 - 1) - (2**64 - 1) % n
        while True:
            value = self.word() | self.word() << 32
            if value < limit:
                return value % n


def signs(key, count):
    """Sign i as a truth value."""
    i = np.arange(count)
    word = 64 * (i // 2048) + 16 * (i % 2048 // 512) + i % 16
    words = lines(key, SIGNS, 10, 64 * -(-count // 2048))
    return (words[word] >> (31 - i % 512 // 16).astype(np.uint32) & 1).astype(bool)
