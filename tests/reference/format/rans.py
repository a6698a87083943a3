"""Interleaved rANS: symbols of static models."""
import struct

import numpy as np

from reading import require


class RansDecoder:
    def __init__(self, frequencies, precision, count, reader):
        self.precision = precision
        self.frequencies = frequencies
        self.starts = [np.concatenate([[0], np.cumsum(f)]).tolist() for f in frequencies]
        self.symbols = [np.repeat(np.arange(len(f)), f).tolist() for f in frequencies]  # by slot
        words = reader.varint()
        require(words <= count, f"{words} entropy-coded words for {count} symbols")
        lanes = 1
        while lanes < 32 and 2 * lanes <= count // 4096:
            lanes *= 2
        self.states = list(struct.unpack(f"<{lanes}I", reader.take(4 * lanes)))
        require(all(2**15 <= state < 2**31 for state in self.states), "an impossible entropy-coder state")
        self.words = struct.unpack(f"<{words}H", reader.take(2 * words))
        self.used = self.position = 0

    def symbol(self, context):
        lane = self.position % len(self.states)
        self.position += 1
        x = self.states[lane]
        slot = x % 2**self.precision
        symbol = self.symbols[context][slot]
        x = self.frequencies[context][symbol] * (x >> self.precision) + slot - self.starts[context][symbol]
        if x < 2**15:
            require(self.used < len(self.words), "the entropy-coded words end before the symbols do")
            x = x << 16 | self.words[self.used]
            self.used += 1
        self.states[lane] = x
        return symbol

    def finish(self):
        ended = self.used == len(self.words) and all(state == 2**15 for state in self.states)
        require(ended, "the entropy coder did not end where it began")
