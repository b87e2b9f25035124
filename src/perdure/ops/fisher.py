"""The diagonal Fisher information of a classifier: how sharply examples pin each parameter down.

    F = 1/N sum_n E_{y ~ p(.|x_n)} (d log p(y|x_n) / d theta)^2

The square is taken an example at a time: that of a batch's mean gradient is about B times smaller, and near an optimum
holds little but the noise of that mean. The gradient of log p(y|x) by the logits is e_y - p, so with J the Jacobian of
an example's logits and cotangents s the Fisher is F = 1/N sum_n sum_k (J_n^T s_kn)^2, where s is

    exact      sqrt(p_c) (e_c - p) for each class c, since sum_c s_c s_c^T is the covariance of e_y - p under the model
    sampled    e_y - p for one y ~ p an example: right on average
    empirical  e_y - p for the true y: biased, and gone where the examples are fitted
    auto       exact where it factors, else sampled on 5,000 examples

Reference: F. Kunstner, L. Balles, P. Hennig, "Limitations of the empirical Fisher approximation for natural gradient
descent", 2019, arXiv 1905.12558.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from perdure.contract import Examples, Refused, check_limit
from perdure.model import Model
from perdure.ops.sensitivity import SAMPLES, chosen, factors, mean, opened
from perdure.rng import fold, uniform

Kind = Literal["auto", "exact", "sampled", "empirical"]


def check_fisher(kind: str, limit: int | None) -> None:
    """Raises Refused where options cannot say how a Fisher is taken."""
    if kind not in get_args(Kind):
        raise Refused(f"method.fisher is {kind!r}; use one of {', '.join(get_args(Kind))}")
    check_limit("fisher_examples", limit)


def diagonal(
    net: nn.Module,
    model: Model,
    examples: Examples,
    kind: Kind,
    key: int,
    classes: Tensor | None = None,
    limit: int | None = None,
    batch: int = 256,
    factored: bool | None = None,
) -> dict[str, Tensor]:
    """The mean diagonal Fisher at a model, in evaluation mode: named, shaped and placed like `model.params`.

    Args:
        kind: whose labels; see above.
        key: which examples `limit` takes, and which labels are sampled.
        classes: (n,) labels whose logits compete; all of the head when not given.
        limit: at most so many examples, drawn without replacement; all of them when not given.
        batch: examples at once; changes speed and memory only.
        factored: what `factors` says of the network, for whoever asks often.

    Raises:
        Refused: `empirical`, and the label of an example is not among those that compete.
    """
    rows, shown = opened(model, classes)
    factored = factors(net, model, examples) if factored is None else factored
    if kind == "auto":
        kind, limit = ("exact", limit) if factored else ("sampled", limit or SAMPLES)
    places = chosen(examples, limit, key)
    truth = examples.labels[places].to(shown.device)
    draws = uniform(fold(key, "labels"), len(places))

    def cotangents(span: slice, logits: Tensor) -> Iterator[Tensor]:
        return _cotangents(kind, shown, truth[span], draws[span], logits)

    return mean(net, model, examples, places, rows, cotangents, "square", factored, batch)


def _cotangents(kind: Kind, shown: Tensor, truth: Tensor, draw: Tensor, logits: Tensor) -> Iterator[Tensor]:
    """Each s (B, n) at competing logits (B, n) of the labels `shown` (n,); truth and draws are (B,)."""
    p = logits.softmax(1)
    if kind == "exact":
        for c, one in enumerate(torch.eye(len(shown)).to(p)):
            yield p[:, c : c + 1].sqrt() * (one - p)
        return
    if kind == "sampled":
        below = (p.cumsum(1) < draw.to(p)[:, None]).sum(1)
        truth = shown[below.clamp_(max=len(shown) - 1)]  # rounding may leave the sum of p under the draw
    hit = truth[:, None] == shown
    if not bool(hit.any(1).all()):
        known = ", ".join(map(str, shown.tolist()))
        raise Refused(
            f"the empirical Fisher met a label that does not compete (those are {known}); use exact or sampled"
        )
    yield hit.to(p) - p
