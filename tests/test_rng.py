"""Facts about random draws: known vectors, prefixes, ranges, and that nothing global is touched."""

import pytest
import torch

from perdure import rng


def test_draws_are_splitmix64():
    """The first outputs of the reference generator for seeds 0 and 1234567."""
    known = {
        0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B],
        1234567: [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431],
    }
    for seed, words in known.items():
        assert [draw % 2**64 for draw in rng.bits(seed, len(words)).tolist()] == words


def test_keys_are_taken_modulo_two_to_the_64():
    assert torch.equal(rng.bits(-1, 8), rng.bits(2**64 - 1, 8))


@pytest.mark.parametrize(
    "draw", [rng.bits, rng.uniform, rng.normal, lambda key, n, start=0: rng.integers(key, 10, n, start)]
)
def test_a_longer_draw_begins_with_the_shorter(draw):
    whole = draw(5, 100)
    assert torch.equal(whole[:40], draw(5, 40))
    assert torch.equal(whole[40:], draw(5, 60, start=40))


def test_draws_at_counters_in_any_shape_and_order():
    counters = torch.tensor([[7, 0], [3, 7]])
    assert torch.equal(rng.at(11, counters), rng.bits(11, 8)[counters])


def test_fold_depends_on_every_word_and_their_order():
    keys = [
        rng.fold(0),
        rng.fold(0, 1),
        rng.fold(1, 0),
        rng.fold(0, "a"),
        rng.fold(0, "a", 1),
        rng.fold(0, 1, "a"),
        rng.fold(0, "b", 1),
        rng.fold(0, -1),
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**64 for key in keys)
    assert rng.fold(0, "a", 1) == rng.fold(rng.fold(0, "a"), 1)


def test_uniform_is_uniform():
    draws = rng.uniform(3, 100_000)
    assert draws.dtype == torch.float64
    assert draws.min() >= 0
    assert draws.max() < 1
    ordered = draws.sort().values
    gap = (ordered - torch.arange(1, 100_001) / 100_000).abs().max()  # Kolmogorov-Smirnov
    assert gap * 100_000**0.5 < 1.95  # exceeded by one key in a thousand


def test_integers_are_uniform_below_their_own_bound():
    high = torch.arange(1, 50_001)
    draws = rng.integers(9, high, 50_000)
    assert (draws >= 0).all()
    assert (draws < high).all()
    counts = rng.integers(9, 10, 50_000).bincount(minlength=10)
    assert ((counts - 5000.0) ** 2 / 5000).sum() < 27.9  # chi-square, 9 degrees of freedom, 1 in 1,000


def test_normal_has_the_moments_of_the_normal():
    draws = rng.normal(4, 200_000)
    assert torch.isfinite(draws).all()
    for power, moment, bound in ((1, 0, 0.01), (2, 1, 0.02), (3, 0, 0.04), (4, 3, 0.1)):
        assert (draws**power).mean().item() == pytest.approx(moment, abs=bound)


def test_a_permutation_holds_every_place_once():
    assert torch.equal(rng.permutation(6, 1000).sort().values, torch.arange(1000))
    assert not torch.equal(rng.permutation(6, 1000), rng.permutation(7, 1000))
    assert rng.permutation(6, 1).tolist() == [0]
    assert rng.permutation(6, 0).tolist() == []


def test_every_permutation_is_equally_likely():
    counts: dict[tuple[int, ...], int] = {}
    for key in range(6000):
        order = tuple(rng.permutation(rng.fold(key), 3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5  # 5 degrees of freedom, 1 in 1,000


def test_a_generator_repeats_and_the_global_one_is_left_alone():
    before = torch.get_rng_state()
    one, two = (torch.rand(5, generator=rng.generator(2**63 + 5)) for _ in range(2))
    assert torch.equal(one, two)
    rng.normal(1, 10), rng.permutation(1, 10), rng.integers(1, 5, 10)
    assert torch.equal(torch.get_rng_state(), before)
