"""XXH3-64 with seed 0 (Collet, https://github.com/Cyan4973/xxHash, version 0.8), of which checksums are the low 32 bits."""
import numpy as np

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
P32 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MASK = 2**64 - 1


def word(data, at, size=8):
    return int.from_bytes(data[at : at + size], "little")


def fold(a, b):
    product = a * b
    return (product & MASK) ^ (product >> 64)


def avalanche(h):
    h = (h ^ (h >> 37)) * 0x165667919E3779F9 & MASK
    return h ^ (h >> 32)


def avalanche_64(h):
    h = (h ^ (h >> 33)) * P64[1] & MASK
    h = (h ^ (h >> 29)) * P64[2] & MASK
    return h ^ (h >> 32)


def rotate(x, by):
    return (x << by | x >> (64 - by)) & MASK


def up_to_16(data):
    n = len(data)
    if n > 8:
        low = word(data, 0) ^ word(SECRET, 24) ^ word(SECRET, 32)
        high = word(data, n - 8) ^ word(SECRET, 40) ^ word(SECRET, 48)
        return avalanche((n + int.from_bytes(low.to_bytes(8, "little"), "big") + high + fold(low, high)) & MASK)
    if n >= 4:
        h = (word(data, n - 4, 4) + (word(data, 0, 4) << 32)) ^ word(SECRET, 8) ^ word(SECRET, 16)
        h = (h ^ rotate(h, 49) ^ rotate(h, 24)) * 0x9FB21C651E98DF25 & MASK
        h = (h ^ ((h >> 35) + n)) * 0x9FB21C651E98DF25 & MASK
        return h ^ (h >> 28)
    if n > 0:
        combined = data[0] << 16 | data[n // 2] << 24 | data[n - 1] | n << 8
        return avalanche_64(combined ^ word(SECRET, 0, 4) ^ word(SECRET, 4, 4))
    return avalanche_64(word(SECRET, 56) ^ word(SECRET, 64))


def mix(data, at, secret_at):
    return fold(word(data, at) ^ word(SECRET, secret_at), word(data, at + 8) ^ word(SECRET, secret_at + 8))


def up_to_240(data):
    n = len(data)
    h = n * P64[0]
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            h += mix(data, 16 * i, 32 * i) + mix(data, n - 16 * (i + 1), 32 * i + 16)
        return avalanche(h & MASK)
    for i in range(8):
        h += mix(data, 16 * i, 16 * i)
    h = avalanche(h & MASK)
    for i in range(8, n // 16):
        h += mix(data, 16 * i, 16 * (i - 8) + 3)
    return avalanche((h + mix(data, n - 16, 136 - 17)) & MASK)


def beyond(data):
    def lanes(source, at):
        return np.frombuffer(source, "<u8", 8, at)

    accumulators = np.array([P32[2], P64[0], P64[1], P64[2], P64[3], P32[1], P64[4], P32[0]], np.uint64)
    swapped, low, shift = [1, 0, 3, 2, 5, 4, 7, 6], np.uint64(2**32 - 1), np.uint64(32)

    def accumulate(at, secret_at):
        values = lanes(data, at)
        keyed = values ^ lanes(SECRET, secret_at)
        accumulators[:] += values[swapped] + (keyed & low) * (keyed >> shift)

    stripes = (len(data) - 1) // 64
    for stripe in range(stripes):
        accumulate(64 * stripe, 8 * (stripe % 16))
        if stripe % 16 == 15 and 64 * (stripe + 1) < len(data):
            scrambled = (accumulators ^ (accumulators >> np.uint64(47)) ^ lanes(SECRET, 128)) * np.uint64(P32[0])
            accumulators[:] = scrambled
    accumulate(len(data) - 64, 192 - 64 - 7)
    h = len(data) * P64[0]
    for i in range(4):
        a, b = int(accumulators[2 * i]), int(accumulators[2 * i + 1])
        h += fold(a ^ word(SECRET, 11 + 16 * i), b ^ word(SECRET, 19 + 16 * i))
    return avalanche(h & MASK)


def xxh3_64(data):
    data = bytes(data)
    return up_to_16(data) if len(data) <= 16 else up_to_240(data) if len(data) <= 240 else beyond(data)


def checksum(data):
    return xxh3_64(data) & 0xFFFFFFFF
