"""The diagonal Fisher information of a classifier: how sharply examples pin each parameter down.

    F = 1/N sum_n E_{y ~ p(.|x_n)} (d log p(y|x_n) / d theta)^2

The square is taken an example at a time: that of a batch's mean gradient is about B times smaller, and near an optimum
holds little but the noise of that mean. The gradient of log p(y|x) by the logits is e_y - p, so with J the Jacobian of
an example's logits and cotangents s the Fisher is F = 1/N sum_n sum_k (J_n^T s_kn)^2, where s is

    exact      sqrt(p_c) (e_c - p) for each class c, since sum_c s_c s_c^T is the covariance of e_y - p under the model
    sampled    e_y - p for one y ~ p an example: right on average
    empirical  e_y - p for the true y: biased, and gone where the examples are fitted
    auto       exact where it factors, else sampled on 5,000 examples

In a Linear layer of inputs a (B, i), with cotangents delta (B, o) of its outputs, J_n^T s_n = delta_n a_n^T, so that
the sum over examples of the squares is (delta^2)^T a^2. A network of nothing else factors: no gradient of a single
example is ever made.

Reference: F. Kunstner, L. Balles, P. Hennig, "Limitations of the empirical Fisher approximation for natural gradient
descent", 2019, arXiv 1905.12558.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from perdure.contract import Examples, Refused
from perdure.model import Model, calls, evaluation, forward, rows_of
from perdure.rng import fold, permutation, uniform

Kind = Literal["auto", "exact", "sampled", "empirical"]
SAMPLES = 5000  # examples of `auto` where the Fisher does not factor
PROBE = 8  # examples that show whether it does
CHUNK = 1 << 23  # numbers held at once in gradients of single examples

Cotangents = Callable[[Tensor], Iterator[Tensor]]  # from competing logits (B, n), K times s (B, n)


def check_fisher(kind: str, limit: int | None) -> None:
    """Raises Refused where options cannot say how a Fisher is taken."""
    if kind not in get_args(Kind):
        raise Refused(f"fisher is {kind!r}; use one of {', '.join(get_args(Kind))}")
    if limit is not None and limit < 1:
        raise Refused(f"fisher_examples is {limit}; use at least 1, or none for all examples")


def diagonal(
    net: nn.Module,
    model: Model,
    examples: Examples,
    kind: Kind,
    key: int,
    classes: Tensor | None = None,
    limit: int | None = None,
    batch: int = 256,
) -> dict[str, Tensor]:
    """The mean diagonal Fisher at a model, in evaluation mode: named, shaped and placed like `model.params`.

    Args:
        kind: whose labels; see above.
        key: which examples `limit` takes, and which labels are sampled.
        classes: (n,) labels whose logits compete; all of the head when not given.
        limit: at most so many examples, drawn without replacement; all of them when not given.
        batch: examples at once; changes speed and memory only.

    Raises:
        Refused: `empirical`, and the label of an example is not among those that compete.
    """
    like, home = next(iter(model.params.values())), examples.labels.device
    rows = torch.arange(len(model.labels)) if classes is None else rows_of(model.labels, classes)
    rows, shown = rows.to(like.device), model.labels[rows.to(model.labels.device)].to(like.device)

    def inputs(indices: Tensor) -> Tensor:
        return examples.take(indices).x.to(like)

    with torch.autocast(like.device.type, enabled=False):
        factored = factors(net, model, inputs(torch.arange(min(PROBE, len(examples)), device=home)))
        if kind == "auto":
            kind, limit = ("exact", limit) if factored else ("sampled", limit or SAMPLES)
        chosen = permutation(fold(key, "rows"), len(examples))[:limit] if limit else torch.arange(len(examples))
        draws = uniform(fold(key, "labels"), len(chosen))
        add = _add_outer if factored else _add_each
        total = {name: torch.zeros_like(param) for name, param in model.params.items()}
        for block, draw in zip(chosen.to(home).split(batch), draws.split(batch), strict=True):
            truth = examples.labels[block].to(like.device)
            add(total, net, model, inputs(block), rows, partial(_cotangents, kind, shown, truth, draw))
    return {name: square.div_(len(chosen)) for name, square in total.items()}


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


def factors(net: nn.Module, model: Model, x: Tensor) -> bool:
    """Whether all parameters are those of Linear layers, and the gradient of one example is delta a^T in each.

    So it is where each layer is called at most once a forward pass, on one row an example, and nothing else uses its
    weights (a tied decoder) or couples examples (batch statistics). The last two are seen on a few inputs x (B, ...):
    the gradient of the first example's logits must be its own outer products.
    """
    layers = _linear(net)
    if sorted(name for names in layers.values() for name in names) != sorted(model.params):
        return False
    params = {name: param.detach().requires_grad_() for name, param in model.params.items()}
    with calls(layers) as called, torch.enable_grad():
        logits = functional_call(evaluation(net), {**params, **model.stats}, (x,))
        wanted = logits[0] @ torch.arange(1, logits.shape[1] + 1).to(logits)
    if any(len(call) > 1 or call[0][0].shape[:-1] != x.shape[:1] for call in called.values()):
        return False
    outputs = [output for [(_, output)] in called.values()]
    found = torch.autograd.grad(wanted, [*outputs, *params.values()], allow_unused=True, materialize_grads=True)
    outer = {name: torch.zeros_like(param) for name, param in model.params.items()}
    for (layer, [(a, _)]), delta in zip(called.items(), found, strict=False):
        outer |= zip(layers[layer], (torch.outer(delta[0], a[0].detach()), delta[0]), strict=False)
    grads = zip(found[len(outputs) :], outer.values(), strict=True)
    return all(torch.allclose(whole, own, rtol=1e-3, atol=1e-5 * float(whole.abs().max())) for whole, own in grads)


def _linear(net: nn.Module) -> dict[nn.Module, list[str]]:
    """The Linear layers of the evaluation copy with the names of their parameters: a weight, and perhaps a bias."""
    copy = evaluation(net)
    names = {param: name for name, param in copy.named_parameters()}
    layers = {
        layer: dict(layer.named_parameters(recurse=False)) for layer in copy.modules() if type(layer) is nn.Linear
    }
    return {
        layer: [names[param] for param in own.values()]
        for layer, own in layers.items()
        if list(own) in (["weight"], ["weight", "bias"])
    }


def _add_outer(
    total: dict[str, Tensor], net: nn.Module, model: Model, x: Tensor, rows: Tensor, cotangents: Cotangents
) -> None:
    """Adds the sum over examples of sum_k (J^T s_k)^2, layer by layer as (delta^2)^T a^2."""
    layers = _linear(net)
    with calls(layers) as called, torch.enable_grad():
        logits = functional_call(evaluation(net), {**model.params, **model.stats}, (x,)).index_select(1, rows)
    outputs = [output for [(_, output)] in called.values()]
    squares = [torch.zeros_like(output) for output in outputs]
    for s in cotangents(logits.detach()):
        deltas = torch.autograd.grad(logits, outputs, s, retain_graph=True, allow_unused=True, materialize_grads=True)
        torch._foreach_addcmul_(squares, deltas, deltas)
    for (layer, [(a, _)]), square in zip(called.items(), squares, strict=True):
        weight, *bias = layers[layer]
        total[weight].addmm_(square.T, a.detach().square())
        for name in bias:
            total[name].add_(square.sum(0))


def _add_each(
    total: dict[str, Tensor], net: nn.Module, model: Model, x: Tensor, rows: Tensor, cotangents: Cotangents
) -> None:
    """Adds the same sum from the gradient of every example."""
    copy = evaluation(net)

    def projected(params: dict[str, Tensor], x: Tensor, s: Tensor) -> Tensor:
        logits: Tensor = functional_call(copy, {**params, **model.stats}, (x[None],))
        return logits[0].index_select(0, rows) @ s

    def one(params: dict[str, Tensor], x: Tensor, s: Tensor) -> dict[str, Tensor]:
        return {name: alone[None] for name, alone in grad(projected)(params, x[0], s[0]).items()}

    recurrent = any(isinstance(layer, nn.RNNBase) for layer in copy.modules())  # vmap has no rule for these
    each = one if recurrent else vmap(grad(projected), in_dims=(None, 0, 0))
    chunk = 1 if recurrent else max(1, CHUNK // sum(param.numel() for param in model.params.values()))
    with sdpa_kernel(SDPBackend.MATH):  # nor for the fused attention kernels
        for s in cotangents(forward(net, model, x).index_select(1, rows)):
            for few in zip(x.split(chunk), s.split(chunk), strict=True):
                for name, grads in each(model.params, *few).items():
                    total[name] += grads.square().sum(0)
