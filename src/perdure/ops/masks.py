"""Masks over the weights of a network: which weights take one, what lies beneath, and how its scores are learned.

The scores s of a mask have the shape of the weights W they cover. The network runs on W * m(s), m being 0 or 1 (or a
sign), and the step from s to m is taken as the identity on the way back ("straight-through"):

    dL/ds = dL/d(W m) * W         for a threshold:     m = 1[s >= cut]
    dL/ds = dL/d(W m) * W sign s  for the largest |s|: m = 1 for as many of a layer as its budget allows

Nothing else is differentiated, so a step costs what a dense one does and three passes over the weights.

Reference: A. Mallya, D. Davis, S. Lazebnik, "Piggyback", 2018, arXiv 1801.06519 (threshold); V. Ramanujan et al.,
"What's hidden in a randomly weighted neural network?", 2020, arXiv 1911.13299 (the largest, signed constants).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod, sqrt
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from perdure.contract import Examples, Fit, Refused
from perdure.ops.channels import signs
from perdure.ops.select import largest, threshold
from perdure.rng import fold, uniform
from perdure.train import Descent

Params = dict[str, Tensor]
MOST = 0.5  # the largest share of a layer that an Erdos-Renyi budget keeps
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def maskable(net: nn.Module) -> dict[str, int]:
    """The weights that take a mask, by parameter name, each with its fan-in: those of Linear and convolution layers.

    Raises:
        Refused: a layer is neither one of these nor a normalisation, and has parameters: they are named.
    """
    out = {}
    names = {param: name for name, param in net.named_parameters()}
    for path, layer in net.named_modules():
        own = dict(layer.named_parameters(recurse=False))
        weight = own.get("weight")
        if isinstance(layer, nn.Linear | _ConvNd) and weight is not None and set(own) <= {"weight", "bias"}:
            if getattr(layer, "transposed", False):
                raise Refused(f"{path} is a transposed convolution, which a mask does not cover; use a plain one")
            out[names[weight]] = prod(weight.shape[1:])
        elif own and not isinstance(layer, NORMS):
            raise Refused(
                f"{path or 'the net'} ({type(layer).__name__}) has parameters that a mask does not cover: "
                f"{', '.join(own)}. Masks cover Linear and convolution layers; use a net of these and normalisations"
            )
    return out


def check_constants(net: nn.Module, fit: Fit) -> None:
    """Raises Refused where weights are to be given or held: those that follow from a key are neither."""
    still = [name for name, param in net.named_parameters() if not param.requires_grad]
    asked = "fit.start net" if fit.start == "net" else "fit.freeze" if fit.freeze else f"a frozen {' and '.join(still)}"
    if fit.start == "net" or fit.freeze or still:
        raise Refused(
            f"{asked} has no meaning here, where all weights follow from a key and are never trained: leave it out; "
            "piggyback with method.trunk net learns masks over weights that are given"
        )


def beneath(net: nn.Module) -> Params:
    """What lies beside masked weights and never moves: biases of 0, normalisations that neither scale nor shift."""
    masked = maskable(net)
    rest = {name: param for name, param in net.named_parameters() if name not in masked}
    scales = {id(layer.weight) for layer in net.modules() if isinstance(layer, NORMS)}
    return {name: torch.full_like(param, id(param) in scales).detach() for name, param in rest.items()}


def constants(net: nn.Module, key: int) -> Params:
    """Every parameter of a network that is never trained: signed Kaiming constants, +-sqrt(2 / fan-in).

    Signs come from the key and the name alone, so equal keys give equal weights on every machine.
    """
    shapes = dict(net.named_parameters())
    out = beneath(net)
    for name, fan in maskable(net).items():
        sign = signs(fold(key, "sign", name), shapes[name].numel())
        out[name] = (sign * sqrt(2 / fan)).view(shapes[name].shape).to(shapes[name])
    return {name: out[name] for name in shapes}


def start_scores(net: nn.Module, key: int) -> Params:
    """Scores to start from: uniform between -1 and 1 over the root of the fan-in."""
    shapes = dict(net.named_parameters())
    out = {}
    for name, fan in maskable(net).items():
        draws = 2 * uniform(fold(key, "score", name), shapes[name].numel()) - 1
        out[name] = (draws / sqrt(fan)).view(shapes[name].shape).to(shapes[name])
    return out


def with_spare(labels: Tensor, outputs: int) -> Tensor:
    """(outputs,) labels of all outputs: those given (l,), then names of their own for outputs that no label uses."""
    return torch.cat([labels, -1 - torch.arange(max(0, outputs - len(labels))).to(labels)])


def uniform_budgets(shapes: Mapping[str, torch.Size], density: float) -> dict[str, int]:
    """How many weights of each layer a mask keeps: the same share of all, n - floor((1 - density) n)."""
    return {name: shape.numel() - int((1 - density) * shape.numel()) for name, shape in shapes.items()}


def erdos_renyi_budgets(shapes: Mapping[str, torch.Size], e: float) -> dict[str, int]:
    """How many weights of each layer a mask keeps: e (out + in), as in a sparse random graph, at most half of them.

    Rounded as the authors' code does, so that a layer may keep one more.
    """
    shares = {name: min(MOST, e * (shape[0] + shape[1]) / shape.numel()) for name, shape in shapes.items()}
    return {name: shape.numel() - int((1 - shares[name]) * shape.numel()) for name, shape in shapes.items()}


class Rule(Protocol):
    """How scores become a mask."""

    signed: bool  # whether it goes by |s|

    def write(self, scores: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> None: ...  # each step, as 0. and 1.
    def masks(self, scores: Mapping[str, Tensor]) -> Params: ...  # at the end, exactly


class Threshold:
    """A mask keeps what scores at least a cut."""

    signed = False

    def __init__(self, cut: float = 0.0) -> None:
        self.cut = cut

    def write(self, scores: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> None:
        for name, score in scores.items():
            torch.ge(score, self.cut, out=out[name])

    def masks(self, scores: Mapping[str, Tensor]) -> Params:
        """Bool, by name."""
        return {name: score >= self.cut for name, score in scores.items()}


class Largest:
    """A mask keeps in each layer exactly the m scores that are largest in size, ties in order of place.

    It remembers cut-offs, so each mask that is learned takes one of its own.

    Args:
        budgets: m by name.
        refresh: steps between two searches for the cut-off; between them the last one serves, and lets pass more as
            scores grow. What is kept in the end is exact.
    """

    signed = True

    def __init__(self, budgets: Mapping[str, int], refresh: int) -> None:
        self.budgets, self.refresh, self.step = budgets, refresh, 0
        self.cuts: Params = {}

    def write(self, scores: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> None:
        for name, score in scores.items():
            if self.step % self.refresh == 0:
                self.cuts[name] = threshold(score, self.budgets[name])
            torch.ge(torch.abs(score, out=out[name]), self.cuts[name], out=out[name])
        self.step += 1

    def masks(self, scores: Mapping[str, Tensor]) -> Params:
        """Bool, by name."""
        return {name: largest(score, self.budgets[name]) for name, score in scores.items()}


class Through:
    """Straight-through descent: what a descent moves are scores, and its network runs on the masked weights.

        through = Through(descent, weights, masked, rule)     # descent.moved holds the scores
        for batch in descent.batches(examples):
            through.bind()
            descent.step(through.back(descent.grad(loss)))

    Args:
        descent: made with `moved`: the scores of masked parameters, and those parameters that are learned as they are.
        weights: (P,) W, in the layout of the descent.
        masked: names of the parameters that are masked.
        rule: how scores become masks.
        free: names of the parameters that are learned as they are; all others never move.
    """

    def __init__(
        self, descent: Descent, weights: Tensor, masked: Iterable[str], rule: Rule, free: Iterable[str] = ()
    ) -> None:
        views, masked, free = descent.layout.views, list(masked), list(free)
        moved, flat = views(descent.moved), views(descent.flat)
        self.rule, self.views = rule, views
        self.scores, self.out = {name: moved[name] for name in masked}, {name: flat[name] for name in masked}
        self.weights = [views(weights)[name] for name in masked]
        self.slope = torch.zeros_like(weights)
        for name, slope in views(self.slope).items():
            if name in masked or name in free:
                slope.copy_(views(weights)[name]) if name in masked else slope.fill_(1.0)
        self.free = [(flat[name], moved[name]) for name in free]

    @torch.no_grad()
    def bind(self) -> None:
        """Writes the masked weights where the network reads them."""
        self.rule.write(self.scores, self.out)
        torch._foreach_mul_(list(self.out.values()), self.weights)
        for param, value in self.free:
            param.copy_(value)

    def back(self, grads: Tensor) -> Tensor:
        """The gradient (P,) of what is moved, in place of that of the network's weights."""
        grads.mul_(self.slope)
        if self.rule.signed:
            parts = self.views(grads)
            for name, score in self.scores.items():
                parts[name].mul_(score.sign())
        return grads


def learn_masks(through: Through, descent: Descent, examples: Examples) -> Params:
    """Fits scores to examples by cross-entropy; the masks they end in, by name."""
    for batch in descent.batches(examples):
        through.bind()
        descent.step(through.back(descent.grad(cross_entropy(descent(batch.x), batch.y))))
    return through.rule.masks(through.scores)
