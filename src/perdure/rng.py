"""Randomness as data: a key is a 64-bit integer, and every draw is a hash of a key and a counter.

Equal keys give equal integers, signs and permutations on every machine, device and torch version, and a longer draw
begins with the shorter one. The hash is splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014).
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _mix(z: int) -> int:
    for shift, factor in _MIX:
        z = ((z ^ (z >> shift)) * factor) & _MASK
    return z ^ (z >> 31)


def _signed(z: int) -> int:
    return z - (1 << 64) if z >> 63 else z


def fold(key: int, *words: int | str) -> int:
    """Another key, derived from a key and any words. Order matters; cheap (no tensor)."""
    for word in words:
        number = zlib.crc32(word.encode()) | 1 << 32 if isinstance(word, str) else word
        key = _mix(_mix((key + _GAMMA) & _MASK) ^ _mix((number * 2 + 1) & _MASK))
    return key


def at(key: int, counters: Tensor) -> Tensor:
    """The draws at given counters: int64 of the same shape, all 64 bits uniform."""
    z = (counters + 1) * _signed(_GAMMA) + _signed(key & _MASK)
    for shift, factor in (*_MIX, (31, 1)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return z


def bits(key: int, n: int, start: int = 0) -> Tensor:
    """Draws `start` to `start + n` of a key: (n,) int64."""
    return at(key, torch.arange(start, start + n))


def uniform(key: int, n: int, start: int = 0) -> Tensor:
    """(n,) float64 in [0, 1), from the top 53 bits."""
    return ((bits(key, n, start) >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def integers(key: int, high: Tensor | int, n: int, start: int = 0) -> Tensor:
    """(n,) int64 in [0, high); `high` may differ from draw to draw."""
    return (uniform(key, n, start) * high).long()


def normal(key: int, n: int, start: int = 0) -> Tensor:
    """(n,) float64, standard normal (inverse of the normal distribution at the uniform draw)."""
    draws: Tensor = torch.special.ndtri(uniform(key, n, start) + 2.0**-54)
    return draws


def permutation(key: int, n: int) -> Tensor:
    """(n,) int64, a permutation of 0..n-1: the stable order of the hashes."""
    return torch.argsort(bits(key, n), stable=True)


def generator(key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by a key, for noise inside a training loop; repeats on one device and torch version."""
    return torch.Generator(device).manual_seed(_signed(key & _MASK))
