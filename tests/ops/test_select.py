"""Facts about the largest of many: what a stable sort would take, at every type, tie and layout."""

import pytest
import torch
from torch import Tensor

from perdure.contract import Refused
from perdure.ops.select import largest, threshold

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def by_sorting(values: Tensor, m: int) -> Tensor:
    order = values.flatten().abs().double().argsort(stable=True, descending=True)
    return torch.zeros(values.numel(), dtype=torch.bool).index_fill(0, order[:m], True).view(values.shape)


def check(values: Tensor, m: int) -> None:
    mask, tau = largest(values, m), threshold(values, m)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, by_sorting(values, m))
    assert tau.shape == ()
    assert tau.dtype == values.dtype
    assert (values.abs() > tau).sum() <= m <= (values.abs() >= tau).sum()
    if m:
        assert tau == values.abs()[mask].min()


@pytest.mark.parametrize("dtype", TYPES)
def test_it_takes_what_a_stable_sort_takes(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 7, 100, 5000):
        values = torch.randn(n, generator=generator).to(dtype)
        for m in {0, 1, n // 50, n // 2, n - 1, n}:
            check(values, m)


@pytest.mark.parametrize("dtype", TYPES)
def test_of_equal_values_the_first_win(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    few = torch.randint(-3, 4, (600,), generator=generator).to(dtype)
    for m in range(0, 601, 7):
        check(few, m)
    assert largest(torch.tensor([1, -1, 1, -1, 0], dtype=dtype), 2).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("dtype", TYPES)
def test_zeros_denormals_and_infinities_have_their_order(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    tiny = info.smallest_normal * info.eps  # the smallest denormal
    values = torch.tensor(
        [0.0, -0.0, tiny, -2 * tiny, info.smallest_normal, -info.max, torch.inf, -torch.inf, 1, -0.0, 0.0, tiny],
        dtype=dtype,
    )
    assert tiny > 0
    for m in range(len(values) + 1):
        check(values, m)


@pytest.mark.parametrize("dtype", TYPES)
def test_values_that_differ_in_the_last_bit_are_told_apart(dtype: torch.dtype) -> None:
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    start = torch.tensor(1.0, dtype=dtype).view(width)
    values = (start + torch.randperm(3000, generator=torch.Generator().manual_seed(0)).to(width)).view(dtype)
    for m in (1, 1500, 2048, 2999):
        check(values, m)


def test_order_of_place_is_that_of_indices_whatever_the_strides() -> None:
    values = torch.randint(-4, 5, (4, 3, 5, 6), generator=torch.Generator().manual_seed(0)).float()
    for strided in (
        values.contiguous(memory_format=torch.channels_last),
        values.transpose(1, 3).contiguous().transpose(1, 3),
        values.repeat_interleave(2, 3)[..., ::2],
    ):
        assert torch.equal(largest(strided, 100), largest(values, 100))
        check(strided, 100)
    check(torch.tensor(2.0).expand(5, 5), 7)
    check(torch.tensor(-3.0), 1)


def test_none_of_none() -> None:
    assert largest(torch.zeros(0, 3), 0).shape == (0, 3)
    assert threshold(torch.zeros(0), 0) == torch.inf


def test_the_values_stay_as_they_are_and_out_of_the_graph() -> None:
    values = torch.tensor([-3.0, 1.0, 2.0], requires_grad=True)
    largest(values, 1)
    assert values.tolist() == [-3.0, 1.0, 2.0]
    assert not threshold(values, 1).requires_grad
    assert not threshold(values, 0).requires_grad


@pytest.mark.parametrize("select", [largest, threshold])
@pytest.mark.parametrize(
    ("values", "m", "why"),
    [
        (torch.tensor([1.0, torch.nan, torch.inf]), 1, "a NaN among the values"),
        (torch.tensor([-torch.nan], dtype=torch.bfloat16), 0, "a NaN among the values"),
        (torch.ones(3), 4, "cannot take the 4 largest of 3 values"),
        (torch.ones(3), -1, "cannot take the -1 largest of 3 values"),
        (torch.ones(3, dtype=torch.int64), 1, "16, 32 or 64 bit floats, not torch.int64"),
    ],
)
def test_what_has_no_order_is_refused(select, values: Tensor, m: int, why: str) -> None:
    with pytest.raises(Refused, match=why):
        select(values, m)
