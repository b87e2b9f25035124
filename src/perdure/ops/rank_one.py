"""Rank-one scales on weights that many tasks share, and k such tasks laid on top of one another.

    W_i      = W * (s_i t_i^T)                    W (out, in, ...), s_i (out,), t_i (in,)
    W(alpha) = W * sum_i alpha_i s_i t_i^T        alpha = 1/k
    g_i      = dH/dalpha_i = s_i^T (dH/dW(alpha) * W) t_i, summed over layers; H the entropy of the outputs

The gradient by the weights is taken once an input, whatever k.

Reference: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import pad_sequence

from perdure.model import evaluation
from perdure.ops.channels import spread
from perdure.ops.infer import entropy

Params = dict[str, Tensor]
CHUNK = 1 << 25  # numbers held at once in gradients of single inputs


class Stack(NamedTuple):
    """k tasks on top of one another."""

    k: int
    weights: Params  # W by name
    s: Params  # (k, out) by the name of the weight; where a task has fewer rows in its head than another, 0
    t: Params  # (k, in)
    mean: Params  # of what else a task has: vectors and statistics


def bind(weights: Params, s: Params, t: Params) -> Params:
    """W * (s t^T) for each weight W (out, in, ...); of a head, as many rows as s has."""
    return {name: w[: len(s[name])] * spread(torch.outer(s[name], t[name]), w) for name, w in weights.items()}


def piled(tensors: Sequence[Params]) -> Params:
    """(k, ...) of each name; a head with fewer rows than another has zeros there."""
    groups = {name: [one[name] for one in tensors] for name in tensors[0]}
    return {name: pad_sequence(group, True) if group[0].ndim else torch.stack(group) for name, group in groups.items()}


def stacked(weights: Params, s: Sequence[Params], t: Sequence[Params], others: Sequence[Params]) -> Stack:
    """k tasks on top of one another, from the scales of each and what else it has."""
    mean = {name: values.double().mean(0).to(values.dtype) for name, values in piled(others).items()}
    return Stack(len(s), weights, piled(s), piled(t), mean)


def superposed(stack: Stack) -> Params:
    """W(alpha) for alpha = 1/k."""
    out = {}
    for name, w in stack.weights.items():
        s, t = stack.s[name], stack.t[name]
        out[name] = w[: s.shape[1]] * spread(s.T @ t / stack.k, w)
    return out


def gradients(net: nn.Module, stack: Stack, x: Tensor) -> Tensor:
    """(B, k) g, of each input x (B, ...)."""
    module, moved = evaluation(net), superposed(stack)

    def told(moved: Params, x: Tensor) -> Tensor:
        return entropy(functional_call(module, {**moved, **stack.mean}, (x[None],)))[0]

    out = []
    for part in x.split(max(1, CHUNK // sum(w.numel() for w in moved.values()))):
        g = torch.zeros(len(part), stack.k, device=x.device)
        for name, slope in vmap(grad(told), (None, 0))(moved, part).items():
            s, t, w = stack.s[name], stack.t[name], stack.weights[name]
            both = (slope * w[: s.shape[1]]).reshape(*slope.shape[:3], -1).sum(3)  # (B, out, in)
            g += (both @ t.T * s.T).sum(1)
        out.append(g)
    return torch.cat(out)
