"""The tables of the trellis code, made as every Espalier makes them: by coding a sample of N(0, 1) with the code itself."""
import functools

import numpy as np

from gaussian import LN2, cell, exp, float32, frequencies, log2, quantile, tail
from philox import Stream

SAMPLES, STEPS, LANES, UNIT = 32768, 512, 32, 64
NEXT_STATE = [[0, 2], [2, 0], [1, 3], [3, 1]]  # by state and parity of k


@functools.lru_cache(maxsize=None)
def sample():
    x = np.empty(SAMPLES, np.float32)
    x[0::2] = [quantile(0.5 + (i + 0.5) / SAMPLES) for i in range(SAMPLES // 2)]
    x[1::2] = -x[0::2]
    order, stream = x.tolist(), Stream(0x7265)
    for i in range(SAMPLES, 1, -1):
        j = stream.below(i)
        order[i - 1], order[j] = order[j], order[i - 1]
    return np.array(order, np.float32)


def level(quantizer, k):
    return 2 * k - (quantizer == 1) * ((k > 0) - (k < 0))


def guess(quantizer, k, step):
    """About the probability of k."""
    center = abs(level(quantizer, k))
    if center == 0:
        low = -1.0 if quantizer == 0 else -0.5
        high = -low
    else:
        low = center - (0.5 if quantizer == 1 and center == 1 else 1.0)
        high = center + 1
    return cell(low * step, high * step)


def candidates(weights, reach, limit, slope):
    """By kind (quantizer and parity) and cell: the best level and the cost of its rate."""
    costs = []
    for quantizer in range(2):
        sums = [a + b for a, b in zip(weights[2 * quantizer], weights[2 * quantizer + 1])]
        total = 0.0
        for s in sums:
            total += s
        bits = [log2(total / s) for s in sums]
        bits[-2:] = [min(b, 14.0) + 10 for b in bits[-2:]]
        costs.append(np.array([int(min(slope * b * (UNIT * UNIT) + 0.5, 65535.0)) for b in bits], np.int64))
    center = 4 * np.arange(2 * limit // 4 + 1) + 2 - limit
    near = np.floor(center / (2 * UNIT) + 0.5).astype(np.int64)
    kinds = []
    for quantizer in range(2):
        for parity in range(2):
            best_cost = np.full(len(center), np.iinfo(np.int64).max)
            best_level, best_rate = np.zeros(len(center), np.int64), np.zeros(len(center), np.int64)
            for k in [near + offset for offset in range(-3, 4)] + [np.zeros_like(near)]:
                at = level_array(quantizer, k)
                error = center - UNIT * at
                symbol = np.where(np.abs(k) <= reach, k + reach, 2 * reach + 2 - parity)
                rate = costs[quantizer][symbol]
                cost = error * error + rate
                better = (k & 1 == parity) & (np.abs(error) <= 6 * UNIT) & (cost < best_cost)
                best_cost, best_level = np.where(better, cost, best_cost), np.where(better, at, best_level)
                best_rate = np.where(better, rate, best_rate)
            kinds.append((best_level, best_rate))
    return kinds


def level_array(quantizer, k):
    return 2 * k - (np.sign(k) if quantizer == 1 else 0)


def search(y, limit, kinds):
    """The cheapest path of every trellis; y [steps, trellises]. Returns levels and the state before each."""
    cells = (y + limit) >> 2
    levels = np.stack([kind[0][cells] for kind in kinds])  # [kind, step, trellis]
    costs = (y - UNIT * levels) ** 2 + np.stack([kind[1][cells] for kind in kinds])
    # Into state s: from state 2·(s mod 2) or the one after it; the kinds of these two branches.
    branches = [(0, 1), (2, 3), (1, 0), (3, 2)]
    metric = np.full((4, y.shape[1]), 1 << 29)
    metric[0] = 0
    second = np.empty((len(y), 4, y.shape[1]), bool)
    for step in range(len(y)):
        first_ways = np.stack([metric[2 * (s % 2)] + costs[branches[s][0], step] for s in range(4)])
        second_ways = np.stack([metric[2 * (s % 2) + 1] + costs[branches[s][1], step] for s in range(4)])
        second[step] = second_ways < first_ways
        metric = np.minimum(first_ways, second_ways)
    state, lanes = np.argmin(metric, axis=0), np.arange(y.shape[1])
    kind_of = np.array(branches)
    chosen, states = np.empty_like(y), np.empty_like(y)
    for step in range(len(y) - 1, -1, -1):
        took = second[step, state, lanes].astype(int)
        chosen[step] = levels[kind_of[state, took], step, lanes]
        state = 2 * (state % 2) + took
        states[step] = state
    return chosen, states


class Training:
    def __init__(self, step, slope):
        self.step = float32(step)
        self.precision = 13 if step > 0.1 else 14
        self.reach = reach = 2
        while reach < 126 and guess(1, reach + 1, step) > 0.5 / 2**self.precision:
            reach += 2
        self.reach, limit = reach, UNIT * (2 * reach + 4)
        y = np.rint(sample() * np.float32(UNIT / step)).astype(np.int64)
        over = np.maximum(np.abs(y) - limit, 0)
        y -= np.sign(y) * ((over + 255) // 256 * 256)
        # Two halves of 512 steps of 32 trellises, side by side.
        y = y.reshape(2, STEPS, LANES).transpose(1, 0, 2).reshape(STEPS, 2 * LANES)

        escape = tail(level(1, reach + 1) * self.step) + 1e-6
        first = [[guess(state // 2, k, self.step) for k in range(-reach, reach + 1)] + [escape] * 2 for state in range(4)]
        weights = first
        for _ in range(5):
            levels, states = search(y, limit, candidates(weights, reach, limit, slope))
            states, levels = [a.reshape(STEPS, 2, LANES).transpose(1, 0, 2).reshape(-1) for a in (states, levels)]
            k = np.sign(levels) * ((np.abs(levels) + 1) // 2)
            symbols = np.where(np.abs(k) <= reach, k + reach, 2 * reach + 2 - (k & 1))
            weights = self.counts(first, states, symbols)
        self.frequencies = [frequencies(row, self.precision) for row in weights]
        self.rate = self.measure(states, symbols)

    def counts(self, first, states, symbols):
        prior = 0.02 if self.step > 0.1 else 4
        counts = []
        for row in first:
            total = 0.0
            for weight in row:
                total += weight
            counts.append([weight * (prior * SAMPLES / 4 / total) for weight in row])
        counts = np.array(counts)
        mirrored = np.where(symbols <= 2 * self.reach, 2 * self.reach - symbols, symbols)
        np.add.at(counts, (states, symbols), 0.5)
        np.add.at(counts, (states, mirrored), 0.5)
        return counts.tolist()

    def measure(self, states, symbols):
        costs = np.array([[self.precision - log2(f) for f in row] for row in self.frequencies])
        total = 0.0
        for cost, symbol in zip(costs[states, symbols].tolist(), symbols.tolist()):
            total += cost
            if symbol > 2 * self.reach:
                total += 8
        return total / SAMPLES


@functools.lru_cache(maxsize=None)
def trellis_table(bits):
    slope = min(max(0.95 - 0.15 * bits, 0.5), 0.9)

    def train(log_step):
        return Training(exp(log_step * LN2), slope)

    x0 = 1.0 - bits
    best = train(x0)
    f0 = best.rate - bits
    x1 = x0 + f0
    for _ in range(12):
        trained = train(x1)
        f1 = trained.rate - bits
        if abs(f1) < abs(best.rate - bits):
            best = trained
        if abs(f1) < 1e-3 or f1 == f0:
            break
        move = min(max(-f1 * (x1 - x0) / (f1 - f0), -0.7), 0.7)
        x0, f0, x1 = x1, f1, x1 + move
    best.precision = 13 if best.step > 0.1 else 14
    return best
