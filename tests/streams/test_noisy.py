"""The noisy pair: noise is normal, a function of the row, and reproducible."""

import re

import pytest
import torch

from perdure.contract import Refused
from perdure.streams.noisy import Noise, noisy


def test_noise_has_the_deviation_in_scaled_units_and_is_not_clipped(digits):
    for scale in ("unit", "standard"):
        stream = noisy(digits, noise=0.7, scale=scale)
        rows = torch.arange(len(digits.train))
        added = stream[0].examples.take(rows).x - stream[1].examples.take(rows).x
        assert float(added.mean()) == pytest.approx(0, abs=0.01)
        assert float(added.std()) == pytest.approx(0.7, abs=0.01)
        assert float((added.abs() > 0.7).float().mean()) == pytest.approx(0.3173, abs=0.005)
    assert stream[0].examples.take(rows).x.min() < stream[1].examples.take(rows).x.min() - 1


def test_noise_is_a_function_of_key_and_row():
    x, rows = torch.zeros(600, 3, 4), torch.arange(600)
    whole = Noise(5, 2.0)(x, rows)
    picked = torch.tensor([599, 3, 3, 256])
    assert torch.equal(Noise(5, 2.0)(x[:4], picked), whole[picked])
    assert not torch.equal(Noise(6, 2.0)(x, rows), whole)
    assert len(whole.unique()) > 0.99 * whole.numel()


def test_training_and_exam_have_other_noise_and_the_seed_decides_it(digits):
    def added(seed, examples):
        stream = noisy(digits, seed=seed, scale="none")
        rows = torch.arange(100)
        if examples == "train":
            return stream[0].examples.raw(rows) - digits.train.x[:100]
        return stream.exams[0].examples.raw(rows) - digits.exam.x[:100]

    assert torch.equal(added(0, "train"), added(0, "train"))
    assert not torch.allclose(added(0, "train"), added(1, "train"), atol=0.1)
    assert not torch.allclose(added(0, "train"), added(0, "exam"), atol=0.1)


@pytest.mark.parametrize(("order", "clean"), [("noisy-clean", 1), ("clean-noisy", 0)])
def test_the_clean_task_is_the_base_as_it_is(digits, order, clean):
    stream = noisy(digits, order=order)
    raw = stream[clean].examples.raw(torch.arange(len(digits.train)))
    assert raw.dtype == stream[1 - clean].examples.raw(torch.arange(2)).dtype == torch.float32
    assert torch.equal(raw, digits.train.x.float())
    assert torch.equal(stream[0].examples.labels, stream[1].examples.labels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": 3}, "a noisy stream has 2 tasks, the noisy one and the clean one, not 3; use --tasks 2"),
        ({"noise": -0.1}, "stream.noise is -0.1; it is a standard deviation and must not be negative"),
        ({"order": "both"}, "stream.order is 'both'; it must be one of noisy-clean, clean-noisy"),
    ],
)
def test_bad_options_are_refused(digits, given, message):
    with pytest.raises(Refused, match=re.escape(message)):
        noisy(digits, **given)
