"""Binary masks at rest: a mask of n entries, m of them kept, in about log2 C(n, m) bits.

    code = header (1 byte), body, check (one byte for each 256 before it, at most 4)

The header names one of three bodies, its parameter, and whether the mask was complemented (it is where more than half
is kept, so that m <= n / 2 below). The check is the end of a CRC-32 of n, header and body.

    bitmap   the packed mask, a bit an entry
    gaps     Golomb: a gap g between kept entries is g // M ones and a zero, then g mod M in truncated binary, with
             M near ln 2 n / m. Quotients come first and remainders last, so that both are read all at once; m follows
             from the length
    rans     asymmetric numeral systems over words of 16 entries, as if each were kept with probability q, near m / n:
             the words with j ones share a frequency f_j ~ q^j (1 - q)^(16 - j), in integers that are exact on every
             machine. Lanes of 64 bits are coded in lockstep, as many as cost less than 0.3 % together

The shorter of bitmap and gaps wins where it is at most 1 % longer than rans, as it is read many times faster: gaps up
to a density of about .3, the bitmap from .44, rans between. What is decoded is the mask that was encoded, unless damage
escapes the check: 1 in 2^32 from 1 kB, 1 in 256 from 256 bytes. Shorter codes, which have no byte to spare, are refused
where length, padding, end of mask or final state is wrong, or m / n is not what the parameter is for; but there a
flipped bit, a few lost bytes, or another n near by can give another mask of n entries.

Reference: S. Golomb, "Run-length encodings", IEEE Trans. Information Theory 1966; J. Duda, "Asymmetric numeral systems:
entropy coding combining speed of Huffman coding with compression rate of arithmetic coding", 2013, arXiv 1311.2540.
"""

from __future__ import annotations

import zlib
from bisect import bisect
from functools import cache
from itertools import accumulate
from math import ceil, comb, lgamma, log, log2
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perdure.contract import Refused

Array = NDArray[Any]

ONE = 1 << 32  # densities q are integers, in units of 2^-32
LN2 = 2977044472  # so is ln 2
SLACK = 1.01  # what speed may cost in bytes
WORD = 16  # entries in a symbol of rans
TOTAL = 28  # bits of the sum of frequencies: words rarer than 2^-28 cost the others 65,536 of it at most
LANE = 1 << 14  # bits of entropy in a lane, which itself costs about 48
LOW = np.uint64(1 << 32)  # a lane holds at least this, and sheds 32 bits where it would pass 2^64

GAPS = list(accumulate(range(95), lambda M, _: M + max(1, M >> 3), initial=2))  # 96 of M, to 185,441
DENSITIES = list(accumulate(range(14, 44), lambda q, step: q - (q * step >> 8), initial=ONE // 2))  # 31 of q, to .014
RANS = 1 + 2 * len(GAPS)  # headers: 0 bitmap, then gaps, then from here rans; each as it is, and complemented


def pack(mask: Tensor) -> Tensor:
    """(ceil(n / 8),) uint8, the bits of a bool mask of any shape with n entries: the first is the highest bit."""
    return _tensor(np.packbits(_bits(mask)), mask)


def unpack(packed: Tensor, n: int) -> Tensor:
    """(n,) bool, the mask that `pack` took."""
    if packed.shape != ((n + 7) // 8,):
        raise Refused(f"a packed mask of {n} entries is a row of {(n + 7) // 8} bytes, not {tuple(packed.shape)}")
    return _tensor(np.unpackbits(packed.cpu().numpy(), count=n).view(bool), packed)


def entropy_bits(n: int, m: int) -> float:
    """log2 C(n, m): the bits that no code of all masks with m of n entries can go below."""
    if not 0 <= m <= n:
        raise Refused(f"a mask of {n} entries cannot keep {m} of them")
    return (lgamma(n + 1) - lgamma(m + 1) - lgamma(n - m + 1)) / log(2)


def encode(mask: Tensor) -> Tensor:
    """(b,) uint8, the code of a bool mask of any shape, on its device; equal masks have equal codes."""
    bits = _bits(mask)
    n, m = len(bits), int(np.count_nonzero(bits))
    if complement := 2 * m > n:
        bits, m = ~bits, n - m
    bitmap, entropy = (n + 7) // 8, _entropy(n, m)
    bodies = [(bitmap, 0)]  # size and header of the quick ones
    if bitmap > SLACK * entropy / 8:
        kept = np.flatnonzero(bits)
        bodies += [(_gaps_size(kept, GAPS[j]), 1 + 2 * j + complement) for j in _near_gaps(n, m)]
    size, header = min(bodies)
    i = _near_density(n, m)
    lanes = len(_lanes(n, DENSITIES[i]))
    if size > SLACK * ceil((entropy + (48 * lanes if lanes > 1 else 20)) / 8):  # about the size of rans
        header, body = RANS + 2 * i + complement, _rans_encode(np.packbits(bits), n, DENSITIES[i])
    elif header:
        body = _gaps_encode(kept, GAPS[(header - 1) // 2])
    else:
        body = np.packbits(~bits if complement else bits).tobytes()
    coded = bytes([header]) + body
    check = zlib.crc32(coded, n % ONE).to_bytes(4, "big")[4 - _check_size(len(coded)) :]
    return _tensor(np.frombuffer(bytearray(coded + check), np.uint8), mask)


def decode(code: Tensor, n: int) -> Tensor:
    """(ceil(n / 8),) uint8, the packed mask of n entries that a code (b,) uint8 holds, on its device.

    Raises:
        Refused: the code is damaged, or that of a mask with another number of entries.
    """
    if code.dtype != torch.uint8 or code.ndim != 1 or n < 0:
        raise Refused(f"a code is a row of uint8 and n at least 0; got {code.dtype}, {tuple(code.shape)} and n = {n}")
    try:
        return _tensor(_decode(code.cpu().numpy().tobytes(), n), code)
    except _DamagedError as why:
        raise Refused(
            f"the mask is damaged, or not one of {n:,} entries: {why}. "
            "Restore its file from a copy, or learn the task again"
        ) from None


def restored(code: Tensor, n: int) -> Tensor:
    """(n,) bool, the mask that `encode` took.

    Raises:
        Refused: as `decode`.
    """
    return unpack(decode(code, n), n)


class _DamagedError(Exception):
    """What is wrong with a code."""


def _demand(whole: Any, otherwise: str) -> None:
    if not whole:
        raise _DamagedError(otherwise)


def _decode(code: bytes, n: int) -> Array:
    sizes = [size for size in range(max(1, len(code) - 4), len(code) + 1) if size + _check_size(size) == len(code)]
    _demand(sizes, f"no code has {len(code)} bytes")
    header, body, check = code[0], code[1 : sizes[0]], code[sizes[0] :]
    _demand(zlib.crc32(code[: sizes[0]], n % ONE).to_bytes(4, "big").endswith(check), "its check does not match")
    place, complement = divmod(header - 1, 2) if header else (0, 0)
    _demand(place < len(GAPS) + len(DENSITIES), f"no code begins with {header}")
    if header == 0:
        _demand(len(body) == (n + 7) // 8, f"{len(body)} bytes of bitmap")
        packed = np.frombuffer(body, np.uint8)
    elif header < RANS:
        packed = _gaps_decode(body, n, GAPS[place])
    else:
        packed = _rans_decode(body, n, DENSITIES[place - len(GAPS)])
    bits = np.unpackbits(packed)
    _demand(not bits[n:].any(), "its padding is not empty")
    if header:
        m = int(np.count_nonzero(bits))
        right = place in _near_gaps(n, m) if header < RANS else place - len(GAPS) == _near_density(n, m)
        _demand(right and 2 * m <= n, f"its header is not that of {m:,} entries")
    return np.packbits(bits[:n] ^ complement)


def _bits(mask: Tensor) -> Array:
    if mask.dtype != torch.bool:
        raise Refused(f"a mask is bool, not {mask.dtype}; compare it with something first")
    return mask.detach().cpu().flatten().numpy()


def _tensor(array: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device)


def _entropy(n: int, m: int) -> float:
    """Bits of m kept among n entries, were each kept with probability m / n."""
    return m * log2(n / m) + (n - m) * log2(n / (n - m)) if m else 0.0


def _near_gaps(n: int, m: int) -> range:
    """Which GAPS are near ln 2 n / m: the best of them is used, in integers so that every machine tries the same."""
    near = bisect(GAPS, n * LN2 // (m * ONE)) if m else len(GAPS)
    return range(max(0, near - 2), min(near + 2, len(GAPS)))


def _near_density(n: int, m: int) -> int:
    """Which of DENSITIES is nearest to m / n."""
    return min(range(len(DENSITIES)), key=lambda i: abs(DENSITIES[i] * n - m * ONE))


def _check_size(size: int) -> int:
    """Bytes of the check behind so many others."""
    return min(4, size // 256)


# -------------------------------------------------------------------------------------------------------------- gaps
#
# From the front, in order: quotients in unary, ones up to a whole byte, the last bits of the remainders that have one.
# From the end, backwards: the first k bits of each remainder. Of all m, exactly one leaves m zeros before the rest:
# with each entry more, the rest grows and the zeros before it get no more.


def _truncated(M: int) -> tuple[int, int]:
    """k = floor(log2 M), and how many remainders, the lowest, have k bits; the others have k + 1."""
    k = M.bit_length() - 1
    return k, (2 << k) - M


def _gaps_size(kept: Array, M: int) -> int:
    k, short = _truncated(M)
    quotients, remainders = np.divmod(np.diff(kept, prepend=-1) - 1, M)
    return (int(quotients.sum()) + (1 + k) * len(kept) + int(np.count_nonzero(remainders >= short)) + 7) // 8


def _gaps_encode(kept: Array, M: int) -> bytes:
    k, short = _truncated(M)
    quotients, remainders = np.divmod(np.diff(kept, prepend=-1) - 1, M)
    ends = np.cumsum(quotients + 1)
    unary = np.ones(ends[-1] if len(ends) else 0, np.uint8)
    unary[ends - 1] = 0
    shifted = np.where(remainders < short, 2 * remainders, remainders + short)  # the first k bits, and perhaps one
    last = (shifted[remainders >= short] & 1).astype(np.uint8)
    first = (shifted[::-1, None] >> np.arange(k, 0, -1) & 1).astype(np.uint8)
    padding = np.ones(-(len(unary) + len(last) + first.size) % 8, np.uint8)
    return np.packbits(np.concatenate([unary, padding, last, first.ravel()])).tobytes()


def _gaps_decode(body: bytes, n: int, M: int) -> Array:
    k, short = _truncated(M)
    bits = np.unpackbits(np.frombuffer(body, np.uint8))
    first = bits[len(bits) % k :].reshape(-1, k)[::-1] @ (1 << np.arange(k - 1, -1, -1))
    long = first >= short
    rest = np.append(0, np.cumsum(k + long))  # bits that remainders take, for each possible m
    rest = rest[rest <= len(bits)]
    zeros = np.append(0, np.cumsum(bits == 0))
    possible = np.flatnonzero(zeros[len(bits) - rest] == np.arange(len(rest)))
    _demand(len(possible), "quotients and remainders do not match")
    m = int(possible[0])
    front = len(bits) - int(rest[m])
    ends = np.flatnonzero(bits[:front] == 0)
    _demand(front - (ends[-1] + 1 if m else 0) < 8, "more padding than a byte")
    remainders, long = first[:m], long[:m]
    remainders[long] = 2 * remainders[long] - short + bits[front : front + np.count_nonzero(long)]
    kept = np.cumsum((np.diff(ends, prepend=-1) - 1) * M + remainders + 1) - 1
    _demand(m == 0 or kept[-1] < n, "an entry beyond the last")
    mask = np.zeros(n, bool)
    mask[kept] = True
    return np.packbits(mask)


# -------------------------------------------------------------------------------------------------------------- rans
#
# A word of frequency f owns the slots [c, c + f) of 2^TOTAL. A lane x takes it as x <- (x // f) 2^TOTAL + c + x % f,
# and gives words back in reverse. Lanes start at LOW and must come back to it. A single lane starts at 0 instead and
# sheds nothing before it has passed LOW, which saves its cost: the reader takes a small x for the start when no bits
# are left. The body holds the final lanes, big end first, then what they shed in the order of reading.


class _Words(NamedTuple):
    """All words, sorted by their number of ones (in order within it)."""

    sorted: Array  # (65536,) uint16
    ones: Array  # (65536,) of each word
    rank: Array  # (65536,) uint64, of each word among those with as many ones
    first: Array  # (17,) int64, the place of the first word with j ones


@cache
def _words() -> _Words:
    words = np.arange(1 << WORD, dtype=">u2")
    ones = np.unpackbits(words.view(np.uint8)).reshape(-1, WORD).sum(1, dtype=np.int64)
    order = np.argsort(ones, kind="stable")
    first = np.searchsorted(ones[order], np.arange(WORD + 1))
    rank = np.empty(1 << WORD, np.uint64)
    rank[order] = np.arange(1 << WORD) - first[ones[order]]
    return _Words(order.astype(">u2"), ones, rank, first)


@cache
def _frequencies(q: int) -> tuple[Array, Array]:
    """f_j of a word with j ones, and the first slot of those words: (17,) uint64 each."""
    f = [max(1, (q**j * (ONE - q) ** (WORD - j) << TOTAL) // ONE**WORD) for j in range(WORD + 1)]
    f[0] += (1 << TOTAL) - sum(comb(WORD, j) * f[j] for j in range(WORD + 1))
    slots = accumulate((comb(WORD, j) * f[j] for j in range(WORD)), initial=0)
    return np.array(f, np.uint64), np.array(list(slots), np.uint64)


def _lanes(n: int, q: int) -> Array:
    """The lanes at their start: a power of two of them, from 4 q (1 - q), which is below the entropy of an entry."""
    share = 4 * n * q * (ONE - q) // (ONE * ONE * LANE)
    return np.full(1 << share.bit_length() - 1, LOW) if share > 1 else np.zeros(1, np.uint64)


def _rans_encode(packed: Array, n: int, q: int) -> bytes:
    words, (frequency, slot) = _words(), _frequencies(q)
    symbols = np.append(packed, np.zeros(len(packed) % 2, np.uint8)).view(">u2")
    ones = words.ones[symbols]
    f = frequency[ones]
    c = slot[ones] + words.rank[symbols] * f
    limit = f << np.uint64(64 - TOTAL)
    lanes, shed = _lanes(n, q), []
    for start in reversed(range(0, len(symbols), len(lanes))):
        row = slice(start, start + len(lanes))
        x = lanes[: len(f[row])]
        full = np.flatnonzero(x >= limit[row])
        shed.append(x[full].astype(">u4").tobytes())  # the low 32 bits
        x[full] >>= np.uint64(32)
        quotient, remainder = np.divmod(x, f[row])
        x[:] = (quotient << np.uint64(TOTAL)) + c[row] + remainder
    final = lanes.astype(">u8").tobytes()
    return (final.lstrip(b"\0") if len(lanes) == 1 else final) + b"".join(shed[::-1])


def _rans_decode(body: bytes, n: int, q: int) -> Array:
    words, (frequency, slot) = _words(), _frequencies(q)
    lanes = _lanes(n, q)
    start = lanes.copy()
    # a single lane is stored without leading zeros: in 5 to 8 bytes, or fewer where it never shed
    size = 8 * len(lanes) if len(lanes) > 1 else min(len(body), 5 + (len(body) - 5) % 4)
    _demand(len(body) >= size and (len(body) - size) % 4 == 0, f"{len(body)} bytes for {len(lanes)} lanes")
    lanes[:] = np.frombuffer(body[:size].rjust(8, b"\0"), ">u8")
    shed, taken = np.frombuffer(body[size:], ">u4").astype(np.uint64), 0
    places = np.empty((n + WORD - 1) // WORD, np.int64)
    for at in range(0, len(places), len(lanes)):
        place = places[at : at + len(lanes)]
        x = lanes[: len(place)]
        within = x & np.uint64((1 << TOTAL) - 1)
        ones = np.searchsorted(slot, within, side="right") - 1
        f = frequency[ones]
        rank, remainder = np.divmod(within - slot[ones], f)
        place[:] = words.first[ones] + rank.astype(np.int64)
        x[:] = f * (x >> np.uint64(TOTAL)) + remainder
        short = np.flatnonzero(x < LOW)[: len(shed) - taken]
        x[short] = x[short] << np.uint64(32) | shed[taken : taken + len(short)]
        taken += len(short)
    _demand(taken == len(shed) and np.array_equal(lanes, start), "its lanes do not come back to their start")
    return words.sorted[places].view(np.uint8)
