"""Which of k masks is an input's? All of them are laid on top of one another, and one gradient tells.

    W(alpha) = W * sum_i alpha_i M_i        alpha = 1/k, over learned tasks
    g_i      = d objective / d alpha_i      = <M_i, W * d objective / d W(alpha)>
    task     = argmin_i g_i                 one-shot: the mask that would lower the objective most

    binary:  half of the tasks, those of the lowest g, share the next alpha, until one is left
    sweep:   every task answers alone, the lowest objective wins

The objective is the entropy H of the outputs, or G, the log-sum-exp of all outputs in which those of labels are held
constant: its gradient is that of the outputs which no label uses ("superfluous neurons").

Masks stay packed, eight weights a byte, and are unpacked a few at a time: there are never k masks of floats. The
network is passed once, whatever k. For few inputs its gradient by the weights is multiplied with the masks; for many
it is cheaper to let each layer, alone, meet its input under each mask, and weigh the outcome by the gradient there.
The latter is wrong where a weight is used outside its layer, or inputs see each other; a probe of each network tells.

Reference: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from perdure.model import Model, calls, evaluation, forward

COLUMNS = 1 << 18  # entries of unpacked masks at a time: they stay in the processor's cache
FEW = 8  # runs of inputs that are taken one after the other, by the gradient of the weights

Objective = Callable[[Tensor], Tensor]  # from logits (B, n) to (B,), low where a network is sure
Params = dict[str, Tensor]


class Stack(NamedTuple):
    """k masks over one set of weights."""

    weights: Params  # every parameter of the network
    bits: Params  # (k, ceil(n / 8)) uint8 for each masked weight of n entries, the first in the highest bit
    counts: Params  # how many of the masks keep each weight, in its shape
    stats: tuple[Params, ...]  # buffers of the network, a dict a mask

    def __len__(self) -> int:
        return len(self.stats)


def surplus(labels: int) -> Objective:
    """The gradient of G, the log-sum-exp of the logits of which the first `labels` are held constant.

    The value of G says how large logits are, and is of no use; in its place stands the log of the share of softmax that
    goes to outputs which no label uses.
    """

    def objective(logits: Tensor) -> Tensor:
        own, spare = (part.double().logsumexp(1) for part in (logits[:, :labels], logits[:, labels:]))
        whole = torch.logaddexp(own.detach(), spare)
        return (spare - whole).detach() + (whole - whole.detach())

    return objective


def unpacked(bits: Tensor, start: int, stop: int) -> Tensor:
    """(k, 8 (stop - start)) float: some bytes of packed masks (k, b) as zeros and ones."""
    part = bits[:, start:stop]
    if bits.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(part.numpy(), axis=1)).float()
    table = ((torch.arange(256)[:, None] >> torch.arange(7, -1, -1)) & 1).float().to(bits.device)
    return table[part.int()].flatten(1)


def _tiles(bits: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Where each tile of unpacked columns begins, and the tile (k, t)."""
    step = max(1, COLUMNS // (8 * len(bits)))
    for start in range(0, bits.shape[1], step):
        yield 8 * start, unpacked(bits, start, start + step)


def counted(bits: Tensor, shape: torch.Size) -> Tensor:
    """How many of k packed masks (k, b) keep each weight of a shape."""
    total = torch.cat([tile.sum(0) for _, tile in _tiles(bits)])
    return total[: shape.numel()].view(shape)


def products(bits: Tensor, vectors: Tensor) -> Tensor:
    """(R, k): the products of vectors (R, n) with k packed masks (k, ceil(n / 8))."""
    out = vectors.new_zeros(len(vectors), len(bits))
    for start, tile in _tiles(bits):
        part = vectors[:, start : start + tile.shape[1]]
        out.addmm_(part, tile[:, : part.shape[1]].T)
    return out


def masked(stack: Stack, name: str, place: int) -> Tensor:
    """One weight of the network under one of the masks."""
    weight, packed = stack.weights[name], stack.bits[name][place : place + 1]
    return unpacked(packed, 0, packed.shape[1])[0, : weight.numel()].view_as(weight).mul_(weight)


def bind(stack: Stack, place: int) -> Params:
    """The parameters of the network under one of the masks."""
    return {name: masked(stack, name, place) if name in stack.bits else w for name, w in stack.weights.items()}


def superposed(stack: Stack) -> Params:
    """The parameters of the network under all masks at once: W(alpha) for equal alpha."""
    mixed = {name: stack.weights[name] * (kept / len(stack)) for name, kept in stack.counts.items()}
    return {**stack.weights, **mixed}


def gradients(
    net: nn.Module, stack: Stack, x: Tensor, objective: Objective, pool: int = 1, masks: Tensor | None = None
) -> Tensor:
    """(R, k) g, of each input x (B, ...) or, pooled, of each run of `pool` inputs: the mean of the objective over them.

    Args:
        masks: (m,) places of the masks that share alpha; all when not given. g is then (R, m).
    """
    if masks is not None:
        stack = _some(stack, masks)
    runs = x.split(pool)
    if len(runs) > FEW and _layered(net, stack, x):
        return torch.stack([g.mean(0) for g in _singly(net, stack, x, objective).split(pool)])
    few = [runs[start : start + FEW] for start in range(0, len(runs), FEW)]
    return torch.cat([_together(net, stack, part, objective) for part in few])


def _some(stack: Stack, masks: Tensor) -> Stack:
    """The masks at some places (m,) alone."""
    bits = {name: packed[masks] for name, packed in stack.bits.items()}
    counts = {name: counted(packed, stack.weights[name].shape) for name, packed in bits.items()}
    return Stack(stack.weights, bits, counts, tuple(stack.stats[place] for place in masks.tolist()))


_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _layered(net: nn.Module, stack: Stack, x: Tensor) -> bool:
    """Whether `_singly` is right on a net: found once, on the first inputs (B, ...) it is asked for, by a few masks."""
    if net not in _known:
        stack = _some(stack, torch.arange(min(len(stack), FEW)))

        def objective(logits: Tensor) -> Tensor:
            return logits @ torch.arange(1, logits.shape[1] + 1).to(logits)

        whole, own = _together(net, stack, x[:FEW].split(1), objective), _singly(net, stack, x, objective)[:FEW]
        _known[net] = bool((own - whole).abs().max() < 1e-3 * whole.abs().max())
    return _known[net]


def _together(net: nn.Module, stack: Stack, runs: Sequence[Tensor], objective: Objective) -> Tensor:
    """(R, k) g of the mean objective over each run of inputs (B, ...), from its gradient by the weights."""
    params = {name: param.requires_grad_(name in stack.bits) for name, param in superposed(stack).items()}
    stats, moved, slopes = _mean(stack.stats), [params[name] for name in stack.bits], []
    for run in runs:
        with torch.enable_grad():
            value = objective(functional_call(evaluation(net), {**params, **stats}, (run,))).mean()
        slopes.append(torch.autograd.grad(value, moved, allow_unused=True, materialize_grads=True))
    parts = [
        products(packed, (torch.stack(slope) * stack.weights[name]).flatten(1))
        for (name, packed), slope in zip(stack.bits.items(), zip(*slopes, strict=True), strict=True)
    ]
    return torch.stack(parts).sum(0)


def _singly(net: nn.Module, stack: Stack, x: Tensor, objective: Objective) -> Tensor:
    """(B, k) g of each input x (B, ...): what a layer makes of its input under a mask, times the gradient there.

    Calls that are not of as many rows for each input, in the order of inputs, are left out.
    """
    copy = evaluation(net)
    layers = {layer: name for name in stack.bits for layer in (copy.get_submodule(name.rpartition(".")[0]),)}
    with calls(layers) as called, torch.enable_grad():
        values = objective(functional_call(copy, {**superposed(stack), **_mean(stack.stats)}, (x,)))
    seen = [
        (layers[layer], layer, a, output)
        for layer, own in called.items()
        for a, output in own
        if output.numel() % len(x) == 0
    ]
    outputs = [output for *_, output in seen]
    deltas = torch.autograd.grad(values.sum(), outputs, allow_unused=True, materialize_grads=True) if seen else ()
    g = next(iter(stack.weights.values())).new_zeros(len(x), len(stack))
    for (name, layer, a, _), delta in zip(seen, deltas, strict=True):
        still = {name: torch.zeros_like(part) for name, part in layer.named_parameters() if name != "weight"}
        for place in range(len(stack)):
            own = functional_call(layer, {"weight": masked(stack, name, place), **still}, (a.detach(),))
            g[:, place] += own.mul_(delta).reshape(len(x), -1).sum(1)
    return g


def _mean(stats: Sequence[Params]) -> Params:
    """The mean of the buffers of several tasks."""
    return {
        name: torch.stack([own[name].double() for own in stats]).mean(0).to(buffer) for name, buffer in stats[0].items()
    }


def one_shot(net: nn.Module, stack: Stack, x: Tensor, objective: Objective, pool: int = 1) -> Tensor:
    """(B,) the place of each input's mask, from one gradient."""
    return gradients(net, stack, x, objective, pool).argmin(1).repeat_interleave(pool)[: len(x)]


def binary(net: nn.Module, stack: Stack, x: Tensor, objective: Objective, pool: int = 1) -> Tensor:
    """(B,) the place of each input's mask, from ceil(log2 k) gradients: each keeps the better half, ties in order.

    After the first gradient every input has masks of its own, so this costs a pass an input: pool where you can.
    """
    first = gradients(net, stack, x, objective, pool)
    chosen = []
    for run, g in zip(x.split(pool), first, strict=True):
        left = torch.arange(len(stack), device=x.device)
        while len(left) > 1:
            left = left[g.argsort(stable=True)[: (len(left) + 1) // 2]].sort().values
            if len(left) > 1:
                g = gradients(net, stack, run, objective, pool, left)[0]
        chosen.append(left)
    return torch.cat(chosen).repeat_interleave(pool)[: len(x)]


def sweep(net: nn.Module, stack: Stack, x: Tensor, objective: Objective, pool: int = 1) -> Tensor:
    """(B,) the place of each input's mask: that whose own outputs have the lowest mean objective."""
    values = []
    for place in range(len(stack)):
        model = Model(bind(stack, place), stack.stats[place], torch.empty(0), {})
        values.append(torch.stack([run.mean() for run in objective(forward(net, model, x)).split(pool)]))
    return torch.stack(values).argmin(0).repeat_interleave(pool)[: len(x)]


SEARCHES = {"one-shot": one_shot, "binary": binary, "sweep": sweep}
