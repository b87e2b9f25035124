"""The largest of many numbers by magnitude, exactly and without sorting them.

Floats that are not negative order as their bits do, read as integers. So the m-th largest magnitude is found digit by
digit from the high end (a radix select): count the values by their leading bits, see in which bucket the m-th falls,
and look at that bucket alone. The first pass leaves a small share of all values, the rest is cheap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.contract import Refused

DIGIT = 11  # bits a pass: 2,048 buckets fit the nearest cache

INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def largest(values: Tensor, m: int) -> Tensor:
    """Bool, the shape of `values`: exactly m true, where |value| is largest. Of equal ones the first in order win.

    Raises:
        Refused: m is not 0 to n, values are no floats, or one of them is NaN.
    """
    bits = _magnitudes(values, m)
    if m == 0:
        return torch.zeros_like(values, dtype=torch.bool, memory_format=torch.contiguous_format)
    cut = _cut(bits, m)
    mask = bits >= cut
    if surplus := int(mask.count_nonzero()) - m:
        mask[(bits == cut).nonzero()[-surplus:, 0]] = False
    return mask.view(values.shape)


def threshold(values: Tensor, m: int) -> Tensor:
    """0-d tau, the m-th largest |value|: #{|v| > tau} < m <= #{|v| >= tau}; infinite where m is 0.

    Raises:
        Refused: as in `largest`.
    """
    bits = _magnitudes(values, m)
    if m == 0:
        return values.new_full((), torch.inf)
    return torch.full((), _cut(bits, m), dtype=bits.dtype, device=bits.device).view(values.dtype)


def _magnitudes(values: Tensor, m: int) -> Tensor:
    """(n,) integers that order as |value| does, in the order of place."""
    if values.dtype not in INTEGERS:
        raise Refused(f"the largest are taken of 16, 32 or 64 bit floats, not {values.dtype}; convert them first")
    if not 0 <= m <= values.numel():
        raise Refused(f"cannot take the {m} largest of {values.numel()} values")
    bits = values.detach().abs().flatten().view(INTEGERS[values.dtype])
    infinite = torch.full((), torch.inf, dtype=values.dtype).view(bits.dtype)
    if len(bits) and int(bits.max()) > int(infinite):
        raise Refused("a NaN among the values has no magnitude to compare; lower the learning rate, or check the input")
    return bits


def _cut(bits: Tensor, m: int) -> int:
    """The m-th largest of (n,) integers that are not negative, 1 <= m <= n."""
    shift = 8 * bits.element_size() - 1
    prefix = 0
    while shift:
        width = min(DIGIT, shift)
        shift -= width
        digits = (bits >> shift) - (prefix << width)
        reached = torch.bincount(digits, minlength=1 << width).flip(0).cumsum(0)  # how many have this digit or higher
        above = int((reached < m).sum())
        m -= int(reached[above - 1]) if above else 0
        digit = (1 << width) - 1 - above
        prefix = prefix << width | digit
        bits = bits[digits == digit]
    return prefix
