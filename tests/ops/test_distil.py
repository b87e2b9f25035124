"""Facts about distillation: its distance is a KL divergence and an entropy, and what its temperature does to it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.ops.distil import distance
from perdure.rng import fold, normal

B, N = 7, 5
LOGITS, TEACHER = (3 * normal(fold(1, name), B * N).view(B, N) for name in ("logits", "teacher"))


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0, 7.0])
def test_it_is_a_kl_divergence_and_the_entropy_of_the_teacher(tau: float) -> None:
    q = torch.softmax(TEACHER / tau, 1)
    divergence = F.kl_div(F.log_softmax(LOGITS / tau, 1), q, reduction="none").sum(1)
    entropy = torch.distributions.Categorical(q).entropy()
    torch.testing.assert_close(distance(LOGITS, TEACHER, tau), divergence + entropy)


def test_softening_is_that_of_the_probabilities() -> None:
    """Learning without forgetting writes it so: y'_c = y_c^(1/T) / sum y^(1/T), of probabilities y."""
    ours, theirs = (logits.softmax(1) ** (1 / 3) for logits in (LOGITS, TEACHER))
    p, q = ours / ours.sum(1, keepdim=True), theirs / theirs.sum(1, keepdim=True)
    torch.testing.assert_close(distance(LOGITS, TEACHER, 3.0), -(q * p.log()).sum(1))


def test_it_is_smallest_at_the_teacher() -> None:
    """There it is the teacher's entropy, its slope is zero, and a shift of all logits changes nothing."""
    own = TEACHER.clone().requires_grad_()
    least = distance(own, TEACHER, 2.0)
    (slope,) = torch.autograd.grad(least.sum(), own)
    assert float(slope.abs().max()) < 1e-15
    torch.testing.assert_close(least, torch.distributions.Categorical(logits=TEACHER / 2).entropy())
    torch.testing.assert_close(distance(TEACHER + 4.0, TEACHER - 9.0, 2.0), least)
    assert bool((distance(LOGITS, TEACHER, 2.0) > least + 1e-3).all())


def test_a_cold_teacher_names_a_label() -> None:
    """tau to 0, in its own units: tau KD is how far the logit of the teacher's label lies below the largest."""
    tau, best = 1e-3, TEACHER.argmax(1)
    short = LOGITS.amax(1) - LOGITS.gather(1, best[:, None])[:, 0]
    torch.testing.assert_close(tau * distance(LOGITS, TEACHER, tau), short, rtol=0, atol=2e-3)
    assert bool(distance(1e6 * LOGITS, 1e6 * TEACHER, tau).isfinite().all())


def test_a_hot_one_compares_logits() -> None:
    """tau to infinity: KD is log n, and tau^2 of what is left half the variance of the logits' differences."""
    tau = 1e4
    entropy = torch.distributions.Categorical(logits=TEACHER / tau).entropy()
    torch.testing.assert_close(distance(LOGITS, TEACHER, tau), torch.full((B,), N).double().log(), rtol=0, atol=1e-6)
    left = tau**2 * (distance(LOGITS, TEACHER, tau) - entropy)
    torch.testing.assert_close(left, (LOGITS - TEACHER).var(1, unbiased=False) / 2, rtol=1e-3, atol=0)


@pytest.mark.parametrize("later", [0, 2])
def test_its_slope_by_finite_differences(later: int) -> None:
    """(p - q) / tau, with q = 0 for labels that came later."""
    tau, teacher = 2.0, TEACHER[:, : N - later]
    leaf = LOGITS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(distance(leaf, teacher, tau).sum(), leaf)
    for column in range(N):
        step = 1e-5 * F.one_hot(torch.tensor(column), N)
        ends = distance(LOGITS + step, teacher, tau) - distance(LOGITS - step, teacher, tau)
        torch.testing.assert_close(slope[:, column], ends / 2e-5, rtol=1e-6, atol=1e-9)
    q = F.pad((teacher / tau).softmax(1), (0, later))
    torch.testing.assert_close(slope, ((LOGITS / tau).softmax(1) - q) / tau)


def test_a_later_label_is_one_that_the_teacher_rules_out() -> None:
    """It takes from the others: KD grows by -log of the share that the known labels have."""
    known = 3
    ruled_out = TEACHER.clone()
    ruled_out[:, known:] = -torch.inf
    kd = distance(LOGITS, TEACHER[:, :known], 2.0)
    torch.testing.assert_close(kd, distance(LOGITS, ruled_out, 2.0))
    share = (LOGITS / 2).softmax(1)[:, :known].sum(1)
    torch.testing.assert_close(kd, distance(LOGITS[:, :known], TEACHER[:, :known], 2.0) - share.log())


def test_examples_are_alone() -> None:
    each: list[Tensor] = [distance(a[None], b[None], 2.0)[0] for a, b in zip(LOGITS, TEACHER, strict=True)]
    torch.testing.assert_close(distance(LOGITS, TEACHER, 2.0), torch.stack(each))
