"""The normal law in double precision, to the bit, and what is made from it (docs/codec-streams.md, "Tables")."""
import functools
import math
import struct

import numpy as np

LN2, SQRT2, SQRT3 = math.log(2), math.sqrt(2), math.sqrt(3)
LN2_HIGH, LN2_LOW = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")


def float32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def exp(x):
    turns = math.floor(x / LN2 + 0.5)
    rest = (x - turns * LN2_HIGH) - turns * LN2_LOW
    total = 1.0
    for n in range(14, 0, -1):
        total = 1 + total * rest / n
    return math.ldexp(total, turns)


def log2(x):
    mantissa, exponent = math.frexp(x)
    mantissa, exponent = 2 * mantissa, exponent - 1
    if mantissa > SQRT2:
        mantissa, exponent = mantissa / 2, exponent + 1
    s = (mantissa - 1) / (mantissa + 1)
    square, total = s * s, 0.0
    for n in range(23, 0, -2):
        total = total * square + 1 / n
    return exponent + 2 * s * total / LN2


def density(x):
    return 0.0 if abs(x) > 37 else 0.39894228040143267794 * exp(-x * x / 2)


def tail(x):
    if x < 0:
        return 1 - tail(-x)
    if x > 37:
        return 0.0
    if x < 3:
        term = total = x
        n = 3
        while term > total * 1e-17 and n < 200:
            term *= x * x / n
            total += term
            n += 2
        return 0.5 - density(x) * total
    fraction = x
    for n in range(14 + int(900 / (x * x)), 0, -1):
        fraction = x + n / fraction
    return density(x) / fraction


def cell(low, high):
    if low > 0:
        return tail(low) - tail(high)
    if high < 0:
        return tail(-high) - tail(-low)
    return 1 - tail(high) - tail(-low)


def quantile(p):
    if p < 0.5:
        return -quantile(1 - p)
    rest = 1 - p
    t = math.sqrt(-2 * LN2 * log2(rest))
    x = t - (2.30753 + 0.27061 * t) / (1 + t * (0.99229 + 0.04481 * t))
    for _ in range(3):
        ratio = (rest - tail(x)) / density(x)
        x -= ratio / (1 + ratio * x / 2)
    return x


@functools.lru_cache(maxsize=None)
def centroids(levels):
    """Of the Lloyd–Max quantizer of N(0, 1), as float32: Newton's method on the thresholds."""
    edges = np.array([-40.0] + [SQRT3 * quantile(i / levels) for i in range(1, levels)] + [40.0])
    for _ in range(60):
        mass = np.array([cell(a, b) for a, b in zip(edges, edges[1:])])
        heights = np.array([density(e) for e in edges])
        centers = (heights[:-1] - heights[1:]) / mass
        below = heights[:-1] * (centers - edges[:-1]) / mass  # ∂center / ∂ lower edge
        above = heights[1:] * (edges[1:] - centers) / mass  # ∂center / ∂ upper edge
        jacobian = np.diag(1 - (above[:-1] + below[1:]) / 2) - np.diag(below[1:-1] / 2, -1) - np.diag(above[1:-1] / 2, 1)
        change = np.linalg.solve(jacobian, edges[1:-1] - (centers[:-1] + centers[1:]) / 2)
        closing, gaps = np.diff(change), np.diff(edges)[1:-1]
        crowded = closing > 0.5 * gaps  # edges must stay in order
        edges[1:-1] -= change * min([1.0, *(0.5 * gaps[crowded] / closing[crowded])])
        if np.abs(change).max() < 1e-13:
            break
    return ((centers - centers[::-1]) / 2).astype(np.float32)


def frequencies(weights, precision):
    """Integers ≥ 1 in proportion to the weights that sum to 2^precision."""
    total = 0.0
    for weight in weights:
        total += weight
    ideal = [weight / total * 2**precision for weight in weights]
    counts = [max(1, int(x)) for x in ideal]
    missing = 2**precision - sum(counts)
    for _ in range(missing):
        counts[max(range(len(counts)), key=lambda i: (ideal[i] / (counts[i] + 0.5), -i))] += 1
    for _ in range(-missing):
        candidates = [i for i in range(len(counts)) if counts[i] > 1]
        counts[min(candidates, key=lambda i: (ideal[i] / (counts[i] - 0.5), i))] -= 1
    return counts


def entropy(step):
    """Bits of rint(N/step + u) for one who knows u."""
    points = min(max(int(16 * step), 4), 128)
    reach = int(9 / step) + 2
    total = 0.0
    for point in range(points):
        u = (point + 0.5) / (2.0 * points)
        edge = (-reach - 0.5 - u) * step
        edge_tail = tail(abs(edge))
        for k in range(-reach, reach + 1):
            after = (k + 0.5 - u) * step
            after_tail = tail(abs(after))  # each tail serves two cells
            if edge > 0:
                mass = edge_tail - after_tail
            elif after < 0:
                mass = after_tail - edge_tail
            else:
                mass = 1 - after_tail - edge_tail
            if mass > 1e-30:
                total -= mass * log2(mass)
            edge, edge_tail = after, after_tail
    return total / points


def dithered_step(bits):
    x0 = 2.0471 - bits
    x1 = x0 + 0.05
    f0, f1 = entropy(exp(x0 * LN2)) - bits, entropy(exp(x1 * LN2)) - bits
    for _ in range(40):
        if abs(f1) <= 1e-12 or f1 == f0:
            break
        x2 = min(max(x1 - f1 * (x1 - x0) / (f1 - f0), x1 - 1.0), x1 + 1.0)
        x0, f0, x1 = x1, f1, x2
        f1 = entropy(exp(x1 * LN2)) - bits
    return float32(exp(x1 * LN2))


class DitheredTable:
    """Step, frequencies and layout of the dithered code for a nominal rate."""

    def __init__(self, bits):
        self.step = dithered_step(bits)
        self.precision = 12 if bits <= 2.5 else 13 if bits <= 4.5 else 14
        self.bins = 8 if bits < 1.5 else 4
        self.raw = min(max(math.ceil(bits - 6), 0), 2)
        width = self.step * 2**self.raw
        self.reach = 1
        while self.reach < 126 and cell(self.reach * width, (self.reach + 1) * width) > 0.5 / 2**self.precision:
            self.reach += 1
        self.frequencies = [frequencies(self.weights(context), self.precision) for context in range(self.bins)]

    def weights(self, context):
        weights = [0.0] * (2 * self.reach + 2)
        for point in range(16):
            u = (context + (point + 0.5) / 16) / (2 * self.bins)

            def edge(high):
                return (high * 2**self.raw - 2**self.raw // 2 - 0.5 - u) * self.step

            for high in range(-self.reach, self.reach + 1):
                weights[high + self.reach] += cell(edge(high), edge(high + 1))
            weights[-1] += tail(edge(self.reach + 1)) + tail(-edge(-self.reach))
        return weights


dithered_table = functools.lru_cache(maxsize=None)(DitheredTable)
