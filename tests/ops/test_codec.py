"""Facts about masks at rest: exact round trips near the entropy bound, bytes that stay readable, damage refused."""

import zlib
from fractions import Fraction
from math import ceil, comb, log2

import numpy as np
import pytest
import torch
from torch import Tensor

from perdure.contract import Refused
from perdure.ops import codec
from perdure.ops.codec import decode, encode, entropy_bits, pack, unpack
from perdure.rng import uniform

KINDS = {"bitmap": 0.5, "gaps": 0.05, "rans": 0.37}  # a density at which each wins


def exactly(n: int, m: int, seed: int = 0) -> Tensor:
    mask = np.zeros(n, bool)
    mask[np.random.default_rng(seed).choice(n, m, replace=False)] = True
    return torch.from_numpy(mask)


def kind(code: Tensor) -> str:
    header = int(code[0])
    return "bitmap" if header == 0 else "gaps" if header < codec.RANS else "rans"


def changed(code: Tensor, place: int, by: int = 1) -> Tensor:
    code = code.clone()
    code[place] ^= by
    return code


# ------------------------------------------------------------------------------------------------------- packed bits


def test_bits_are_packed_from_the_highest() -> None:
    assert pack(torch.tensor([True, False, False, False, False, False, False, True, False, True])).tolist() == [129, 64]


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000])
def test_unpacking_gives_the_mask_back(n: int) -> None:
    mask = exactly(n, n // 3)
    assert torch.equal(unpack(pack(mask), n), mask)


def test_entries_are_taken_in_order_of_place_whatever_the_strides() -> None:
    mask = exactly(2 * 3 * 4 * 5, 60).view(2, 3, 4, 5)
    strided = mask.contiguous(memory_format=torch.channels_last)
    assert torch.equal(pack(strided), pack(mask.flatten()))
    assert torch.equal(encode(strided), encode(mask.flatten()))


# -------------------------------------------------------------------------------------------------------- round trip


def test_every_small_mask_comes_back() -> None:
    for n in range(9):
        for number in range(1 << n):
            mask = torch.tensor([bool(number >> i & 1) for i in range(n)], dtype=torch.bool)
            assert torch.equal(decode(encode(mask), n), pack(mask))


def test_masks_of_any_size_and_density_come_back() -> None:
    random, seen = np.random.default_rng(0), set()
    for _ in range(800):
        n = int(random.integers(1, 4000))
        density = random.choice([0.001, 0.01, 0.03, 0.1, 0.2, 0.35, 0.4, 0.43, 0.5, 0.6, 0.8, 0.97, 0.999])
        mask = torch.from_numpy(random.random(n) < density)
        code = encode(mask)
        assert torch.equal(decode(code, n), pack(mask))
        assert len(code) <= 1 + ceil(n / 8) + 1  # a header and at most one byte of check
        seen.add(kind(code))
    assert seen == set(KINDS)


def test_a_mask_of_runs_comes_back() -> None:  # far from what the codes expect
    for n in (1000, 100_000):
        for start, stop in ((0, n // 2), (n // 2, n), (n // 3, n // 3 + 50), (0, n - 7)):
            mask = torch.zeros(n, dtype=torch.bool)
            mask[start:stop] = True
            assert torch.equal(decode(encode(mask), n), pack(mask))


@pytest.mark.parametrize("M", codec.GAPS)
def test_gaps_come_back_at_every_parameter(M: int) -> None:
    for n, m in ((1, 1), (60, 0), (60, 7), (5000, 100), (5000, 2400)):
        kept = exactly(n, m).numpy()
        body = codec._gaps_encode(np.flatnonzero(kept), M)
        assert np.array_equal(codec._gaps_decode(body, n, M), np.packbits(kept))
        assert len(body) == codec._gaps_size(np.flatnonzero(kept), M)


@pytest.mark.parametrize("M", [2, 3, 5, 8, 100])
def test_gaps_are_those_of_golomb(M: int) -> None:
    """Quotients in unary and remainders in truncated binary, entry by entry as the textbook has them."""
    kept = np.flatnonzero(exactly(900, 60).numpy())
    k = M.bit_length() - 1
    short = 2 ** (k + 1) - M
    unary, first, last = "", "", ""
    for gap in np.diff(kept, prepend=-1) - 1:
        quotient, remainder = divmod(int(gap), M)
        unary += "1" * quotient + "0"
        binary = f"{remainder:0{k}b}" if remainder < short else f"{remainder + short:0{k + 1}b}"
        first, last = binary[:k] + first, last + binary[k:]
    padding = "1" * (-len(unary + last + first) % 8)
    body = "".join(f"{byte:08b}" for byte in codec._gaps_encode(kept, M))
    assert body == unary + padding + last + first


@pytest.mark.parametrize("q", codec.DENSITIES)
def test_rans_comes_back_at_every_density_in_one_lane_and_in_several(q: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for lane in (codec.LANE, 64):
        monkeypatch.setattr(codec, "LANE", lane)
        for n, m in ((16, 3), (1000, 0), (1001, 400), (3000, 90), (3000, 2990)):
            packed = np.packbits(exactly(n, m).numpy())
            found = codec._rans_decode(codec._rans_encode(packed, n, q), n, q)
            assert np.array_equal(found[: len(packed)], packed)
            assert not found[len(packed) :].any()
    assert len(codec._lanes(3000, q)) > 1


# -------------------------------------------------------------------------------------------------------------- size


@pytest.mark.parametrize("density", [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("n", [100_000, 235_200])
def test_random_masks_cost_at_most_two_percent_more_than_the_bound(n: int, density: float) -> None:
    m = int(n * density)
    bound = entropy_bits(n, m) / 8
    sizes = [len(encode(exactly(n, m, seed))) for seed in range(5)]
    assert sum(sizes) / 5 <= 1.02 * bound
    assert max(sizes) <= ceil(1.02 * bound)  # each alone, in whole bytes
    assert min(sizes) >= 0.99 * bound


@pytest.mark.parametrize("n", [0, 1, 8, 1000, 1_000_000])
def test_empty_and_full_masks_cost_a_byte(n: int) -> None:
    for mask in (torch.zeros(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)):
        code = encode(mask)
        assert len(code) == 1
        assert torch.equal(decode(code, n), pack(mask))


@pytest.mark.parametrize(("n", "q"), [(1_000, 0), (50_000, 3), (100_000, 12), (1_000_000, 5)])
def test_rans_reaches_the_entropy_of_its_own_model(n: int, q: int) -> None:
    density = codec.DENSITIES[q]
    bits = np.random.default_rng(0).random(n // 16 * 16) < density / codec.ONE
    f, _ = codec._frequencies(density)
    ideal = (codec.TOTAL - np.log2(f)[bits.reshape(-1, 16).sum(1)]).sum() / 8
    lanes = len(codec._lanes(n, density))
    assert ideal - 1 <= len(codec._rans_encode(np.packbits(bits), n, density)) <= ideal + 1 + (7 * lanes, 4)[lanes == 1]


@pytest.mark.parametrize("q", codec.DENSITIES)
def test_lanes_cost_less_than_three_in_a_thousand(q: int) -> None:
    p = q / codec.ONE
    for n in (10_000, 235_200, 2_359_296, 25_000_000):
        lanes = len(codec._lanes(n, q))
        assert lanes.bit_count() == 1
        assert lanes == 1 or 48 * lanes < 0.003 * n * -(p * log2(p) + (1 - p) * log2(1 - p))


@pytest.mark.parametrize("q", codec.DENSITIES)
def test_frequencies_are_those_of_independent_entries(q: int) -> None:
    f, slot = codec._frequencies(q)
    p = Fraction(q, codec.ONE)
    assert all(int(f[j]) == max(1, int(p**j * (1 - p) ** (16 - j) * 2**codec.TOTAL)) for j in range(1, 17))
    assert sum(comb(16, j) * int(f[j]) for j in range(17)) == 2**codec.TOTAL
    assert [int(s) for s in slot] == [sum(comb(16, i) * int(f[i]) for i in range(j)) for j in range(17)]
    assert float(f[0]) == pytest.approx(float((1 - p) ** 16) * 2**codec.TOTAL, abs=2**16)  # what rounding left


def test_half_is_half() -> None:
    assert set(codec._frequencies(codec.ONE // 2)[0].tolist()) == {2**codec.TOTAL // 2**16}


def test_entropy_bits_is_the_logarithm_of_a_binomial() -> None:
    for n, m in ((0, 0), (1, 1), (10, 3), (500, 250), (3000, 2999)):
        assert entropy_bits(n, m) == pytest.approx(log2(comb(n, m)), abs=1e-9)


# ----------------------------------------------------------------------------------------- files of today, years on

SQUARES = torch.zeros(400, dtype=torch.bool).index_fill(0, torch.arange(20) ** 2, True)
EIGHTHS = torch.arange(640) * 7 % 64 % 8 < 3
GOLDEN = {
    "bitmap": (torch.arange(20) % 3 == 0, "00924920"),
    "gaps": (SQUARES, "1700aaadb6dbe0fd6343eb19fac680"),
    "complement": (~SQUARES, "1800aaadb6dbe0fd6343eb19fac680"),
    "rans": (
        EIGHTHS,
        "cb8d81994c0414794bfac1a94c01cd194bf9cf594bfaf7894c050d894bf2c9e94bfb8d594c06b5894bfd6cb94beee9094c0349794c0422494c"
        "0527f94bf139494bf9f9e94c01d8e94bfb1cb94c02ed",
    ),
    "check": (torch.arange(2400) % 2 == 0, "00" + "aa" * 300 + "a7"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_code_is_the_same_bytes_for_ever(name: str) -> None:
    mask, known = GOLDEN[name]
    assert bytes(encode(mask).tolist()).hex() == known
    assert torch.equal(decode(torch.tensor(list(bytes.fromhex(known)), dtype=torch.uint8), len(mask)), pack(mask))


def test_codes_of_many_lanes_are_the_same_bytes_for_ever() -> None:
    code = encode(uniform(0, 100_000) < KINDS["rans"])
    assert (kind(code), len(codec._lanes(100_000, codec.DENSITIES[(int(code[0]) - codec.RANS) // 2]))) == ("rans", 4)
    assert (len(code), zlib.crc32(bytes(code.tolist()))) == (11921, 4186241689)


# ------------------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("name", KINDS)
def test_a_changed_byte_is_refused(name: str) -> None:
    n = 40_000
    code = encode(exactly(n, int(n * KINDS[name])))
    assert kind(code) == name
    for place in [0, 1, *range(2, len(code), 97), *range(len(code) - 5, len(code))]:
        for by in (1, 128, 255):
            with pytest.raises(Refused, match=r"the mask is damaged, or not one of 40,000 entries: .* learn the task"):
                decode(changed(code, place, by), n)


@pytest.mark.parametrize("name", KINDS)
def test_a_code_of_another_length_is_refused(name: str) -> None:
    n = 40_000
    code = encode(exactly(n, int(n * KINDS[name])))
    longer = torch.cat([code, code.new_zeros(3)])
    for other in [*(code[:size] for size in [0, 1, 2, 50, *range(100, len(code), 311), len(code) - 1]), longer]:
        with pytest.raises(Refused, match="the mask is damaged"):
            decode(other, n)


@pytest.mark.parametrize("name", KINDS)
def test_a_code_of_a_mask_of_another_size_is_refused(name: str) -> None:
    n = 40_000
    code = encode(exactly(n, int(n * KINDS[name])))
    for other in (0, 1, 1000, n - 8, n - 1, n + 1, n + 8, 2 * n):
        with pytest.raises(Refused, match="the mask is damaged"):
            decode(code, other)


def test_whatever_is_decoded_is_refused_or_a_mask_of_that_size() -> None:
    random, refused = np.random.default_rng(0), 0
    for round in range(3000):
        n = int(random.integers(0, 900))
        code = encode(torch.from_numpy(random.random(n) < random.choice([0, 0.01, 0.1, 0.38, 0.5, 1])))
        match round % 4:
            case 0:
                code = code[: random.integers(0, len(code))]
            case 1:
                code = changed(code, int(random.integers(len(code))), int(random.integers(1, 256)))
            case 2:
                code = torch.from_numpy(random.integers(0, 256, random.integers(0, 90), dtype=np.uint8))
            case 3:
                n = max(0, n + int(random.integers(-60, 60)))
        try:
            packed = decode(code, n)
        except Refused as why:
            assert "the mask is damaged" in str(why)  # noqa: PT017
            refused += 1
            continue
        assert torch.equal(pack(unpack(packed, n)), packed)
    assert refused > 1500


@pytest.mark.parametrize(
    ("code", "n", "why"),
    [
        ([], 8, "no code has 0 bytes"),
        ([0] * 256, 2040, "no code has 256 bytes"),
        ([255], 8, "no code begins with 255"),
        ([0, 1, 2], 8, "2 bytes of bitmap"),
        ([0, 1], 7, "its padding is not empty"),
        ([1, 0], 3, "an entry beyond the last"),
        ([1, 255, 255], 100, "more padding than a byte"),
        ([codec.RANS, 1], 32, "its lanes do not come back to their start"),
        ([codec.RANS, *[1] * 9], 1 << 16, "9 bytes for 4 lanes"),
    ],
)
def test_what_is_wrong_with_a_code_is_said(code: list[int], n: int, why: str) -> None:
    with pytest.raises(Refused, match=why):
        decode(torch.tensor(code, dtype=torch.uint8), n)


def test_what_is_no_mask_is_refused() -> None:
    with pytest.raises(Refused, match=r"a mask is bool, not torch\.float32"):
        encode(torch.ones(3))
    with pytest.raises(Refused, match=r"a mask is bool, not torch\.uint8"):
        pack(torch.ones(3, dtype=torch.uint8))
    with pytest.raises(Refused, match="a code is a row of uint8"):
        decode(torch.zeros(3), 8)
    with pytest.raises(Refused, match="a packed mask of 9 entries is a row of 2 bytes"):
        unpack(torch.zeros(1, dtype=torch.uint8), 9)
    with pytest.raises(Refused, match="a mask of 3 entries cannot keep 4"):
        entropy_bits(3, 4)
