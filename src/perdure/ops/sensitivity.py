"""Sensitivity: how strongly each parameter moves what a network says of an example, as a mean over examples.

    1/N sum_n sum_k power(J_n^T s_kn)          power: a square (the Fisher), or an absolute value (MAS)

J_n is the Jacobian of an example's logits, and s_kn are cotangents of these. The power is taken an example at a time:
that of a batch's mean gradient is another quantity, in which the gradients of the examples cancel out.

In a Linear layer of inputs a (B, i), with cotangents delta (B, o) of its outputs, J_n^T s_n = delta_n a_n^T. The power
of a product is the product of powers, so that the sum over examples is power(delta)^T power(a). A network of nothing
else factors: no gradient of a single example is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from perdure.contract import Examples
from perdure.model import Model, calls, evaluation, forward, recurrent, rows_of
from perdure.rng import fold, permutation

SAMPLES = 5000  # examples that are enough where a network does not factor
PROBE = 8  # examples that show whether it does
CHUNK = 1 << 23  # numbers held at once in gradients of single examples

Power = Literal["absolute", "square"]
# power(v) = v other(v)
_OTHER: dict[Power, Callable[[Tensor], Tensor]] = {"absolute": torch.sign, "square": lambda v: v}
Cotangents = Callable[[slice, Tensor], Iterator[Tensor]]  # from a span of the places, and its logits: K times s (B, n)


def opened(model: Model, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows (n,) of the head whose logits compete, and their labels (n,), where the parameters are."""
    device = next(iter(model.params.values())).device
    rows = torch.arange(len(model.labels)) if classes is None else rows_of(model.labels, classes)
    return rows.to(device), model.labels[rows.to(model.labels.device)].to(device)


def chosen(examples: Examples, limit: int | None, key: int) -> Tensor:
    """The places of at most so many examples, drawn without replacement; of all of them when there is no limit."""
    n = len(examples)
    return (permutation(fold(key, "rows"), n)[:limit] if limit else torch.arange(n)).to(examples.labels.device)


def mean(
    net: nn.Module,
    model: Model,
    examples: Examples,
    places: Tensor,
    rows: Tensor,
    cotangents: Cotangents,
    power: Power,
    factored: bool,
    batch: int = 256,
) -> dict[str, Tensor]:
    """The mean sensitivity at a model, in evaluation mode: named, shaped and placed like `model.params`.

    Args:
        places: (N,) which examples count.
        rows: (n,) of the head, whose logits the cotangents are of.
        factored: whether the network factors, as `factors` found.
        batch: examples at once; changes speed and memory only.
    """
    like, add = next(iter(model.params.values())), _add_outer if factored else _add_each
    total = {name: torch.zeros_like(param) for name, param in model.params.items()}
    with torch.autocast(like.device.type, enabled=False):
        for start in range(0, len(places), batch):
            span = slice(start, start + batch)
            x = examples.take(places[span]).x.to(like)
            add(total, net, model, x, rows, partial(cotangents, span), power)
    return {name: part.div_(len(places)) for name, part in total.items()}


def factors(net: nn.Module, model: Model, examples: Examples) -> bool:
    """Whether all parameters are those of Linear layers, and the gradient of one example is delta a^T in each.

    So it is where each layer is called at most once a forward pass, on one row an example, and nothing else uses its
    weights (a tied decoder) or couples examples (batch statistics). The last two are seen on a few inputs: the gradient
    of the first example's logits must be its own outer products.
    """
    layers, like = _linear(net), next(iter(model.params.values()))
    if sorted(name for names in layers.values() for name in names) != sorted(model.params):
        return False
    x = examples.take(torch.arange(min(PROBE, len(examples)), device=examples.labels.device)).x.to(like)
    params = {name: param.detach().requires_grad_() for name, param in model.params.items()}
    with torch.autocast(like.device.type, enabled=False):
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
    return all(
        bool(whole.isfinite().all()) and torch.allclose(whole, own, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))
        for whole, own in grads
    )


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
    total: dict[str, Tensor],
    net: nn.Module,
    model: Model,
    x: Tensor,
    rows: Tensor,
    cotangents: Callable[[Tensor], Iterator[Tensor]],
    power: Power,
) -> None:
    """Adds the sum over examples of sum_k power(J^T s_k), layer by layer as power(delta)^T power(a)."""
    layers, other = _linear(net), _OTHER[power]
    with calls(layers) as called, torch.enable_grad():
        logits = functional_call(evaluation(net), {**model.params, **model.stats}, (x,)).index_select(1, rows)
    outputs = [output for [(_, output)] in called.values()]
    sums = [torch.zeros_like(output) for output in outputs]
    for s in cotangents(logits.detach()):
        deltas = torch.autograd.grad(logits, outputs, s, retain_graph=True, allow_unused=True, materialize_grads=True)
        torch._foreach_addcmul_(sums, deltas, [other(delta) for delta in deltas])
    for (layer, [(a, _)]), own in zip(called.items(), sums, strict=True):
        weight, *bias = layers[layer]
        total[weight].addmm_(own.T, a.detach() * other(a.detach()))
        for name in bias:
            total[name].add_(own.sum(0))


def _add_each(
    total: dict[str, Tensor],
    net: nn.Module,
    model: Model,
    x: Tensor,
    rows: Tensor,
    cotangents: Callable[[Tensor], Iterator[Tensor]],
    power: Power,
) -> None:
    """Adds the same sum from the gradient of every example."""
    copy, other = evaluation(net), _OTHER[power]

    def projected(params: dict[str, Tensor], x: Tensor, s: Tensor) -> Tensor:
        logits: Tensor = functional_call(copy, {**params, **model.stats}, (x[None],))
        return logits[0].index_select(0, rows) @ s

    def one(params: dict[str, Tensor], x: Tensor, s: Tensor) -> dict[str, Tensor]:
        return {name: alone[None] for name, alone in grad(projected)(params, x[0], s[0]).items()}

    alone = recurrent(copy)
    each = one if alone else vmap(grad(projected), in_dims=(None, 0, 0))
    chunk = 1 if alone else max(1, CHUNK // sum(param.numel() for param in model.params.values()))
    with sdpa_kernel(SDPBackend.MATH):  # nor for the fused attention kernels
        for s in cotangents(forward(net, model, x).index_select(1, rows)):
            for few in zip(x.split(chunk), s.split(chunk), strict=True):
                for name, grads in each(model.params, *few).items():
                    total[name] += (grads * other(grads)).sum(0)
