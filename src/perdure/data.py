"""Examples: arrays in memory or on disk, views of them, and any map-style dataset.

A task of a stream is a `View`: base rows, a transform of the stored inputs, and new label names, none of it computed
before it is taken. `materialise` computes it once, which is what `learn` does with its own task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from perdure.contract import Batch, Examples, Refused, Scale
from perdure.rng import permutation

BLOCK = 1024  # rows transformed, and at most asked about, at once
NUMBERS = 1 << 22  # that a network is asked about at once: fewer rows, where these are large


class Transform(Protocol):
    """A change of stored inputs that depends on nothing but the row: (B, ...) and rows (B,) to (B, ...)."""

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor: ...


class _Set:
    """What every kind of example set shares; each kind gives `labels`, `scale` and `raw`."""

    labels: Tensor
    scale: Scale

    def raw(self, indices: Tensor) -> Tensor:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Batch:
        """The examples at `indices` (B,), scaled, ready for a network."""
        return Batch(self.scale(self.raw(indices)), self.labels.index_select(0, indices), indices)

    def split(self, key: int, share: float) -> tuple[Examples, Examples]:
        """Two views: the rest, and a share (0 to 1) of the examples drawn by the key."""
        order = permutation(key, len(self))
        cut = round(len(self) * share)
        return View(self, order[cut:].sort().values), View(self, order[:cut].sort().values)

    def materialise(self, where: torch.device | None = None) -> Examples:
        """The same examples as arrays on a device, every transform applied."""
        rows = torch.arange(len(self), device=self.labels.device)
        first, *others = rows.split(BLOCK)
        part = self.raw(first)
        x = part.new_empty(len(self), *part.shape[1:])  # filled block by block: joining blocks would hold all twice
        x[: len(first)] = part
        for block in others:
            x[block] = self.raw(block)
        return Arrays(x, self.labels, self.scale).materialise(where)


@dataclass(frozen=True, eq=False)
class Arrays(_Set):
    """Examples in memory: x (N, ...) of any dtype, labels (N,) int64."""

    x: Tensor
    labels: Tensor
    scale: Scale = Scale()

    def raw(self, indices: Tensor) -> Tensor:
        return self.x.index_select(0, indices)

    def materialise(self, where: torch.device | None = None) -> Examples:
        if where is None or self.x.device == where:
            return self
        return replace(self, x=self.x.to(where), labels=self.labels.to(where))


@dataclass(frozen=True, eq=False)
class Mapped(_Set):
    """Examples whose inputs stay on disk: x is anything indexed by an integer array (`numpy.load(mmap_mode="r")`)."""

    x: Any
    labels: Tensor
    scale: Scale = Scale()

    def raw(self, indices: Tensor) -> Tensor:
        return torch.as_tensor(self.x[indices.numpy()])

    def materialise(self, where: torch.device | None = None) -> Examples:
        return self


class Dataset(_Set):
    """Any map-style dataset of (x, y) pairs with a length; inputs are read one by one when taken.

    Args:
        source: indexable, with `len`.
        labels: (N,) labels, when the dataset can give them without reading every input.
    """

    def __init__(self, source: Any, labels: Tensor | None = None, scale: Scale = Scale()) -> None:
        self.source, self.scale = source, scale
        self.labels = torch.as_tensor([int(source[i][1]) for i in range(len(source))] if labels is None else labels)

    def raw(self, indices: Tensor) -> Tensor:
        return torch.stack([torch.as_tensor(self.source[int(i)][0]) for i in indices])

    def materialise(self, where: torch.device | None = None) -> Examples:
        return self


class View(_Set):
    """A set seen through rows, a transform and other labels.

    Args:
        base: the set underneath.
        rows: (N,) rows of the base; all of them when not given.
        transform: applied to stored inputs; it gets the rows of the base, so noise can be a function of the row.
        labels: (N,) int64, the labels to show instead of the base's.
    """

    def __init__(
        self,
        base: Examples,
        rows: Tensor | None = None,
        transform: Transform | None = None,
        labels: Tensor | None = None,
    ) -> None:
        self.base, self.rows, self.transform, self.scale = base, rows, transform, base.scale
        shown = base.labels if rows is None else base.labels.index_select(0, rows)
        self.labels = shown if labels is None else labels
        if len(self.labels) != len(shown):
            raise Refused(f"{len(self.labels)} labels were given for {len(shown)} examples; give one label an example")

    def raw(self, indices: Tensor) -> Tensor:
        rows = indices if self.rows is None else self.rows.index_select(0, indices)
        x = self.base.raw(rows)
        return x if self.transform is None else self.transform(x, rows)

    def materialise(self, where: torch.device | None = None) -> Examples:
        whole = self.rows is None and self.transform is None
        if whole and self.labels is self.base.labels:
            return self.base.materialise(where)
        return super().materialise(where)


class Concat(_Set):
    """Several sets one after the other (same input shape, dtype and scale)."""

    def __init__(self, parts: Sequence[Examples]) -> None:
        self.parts, self.scale = tuple(parts), parts[0].scale
        if any(part.scale != self.scale for part in parts):
            raise Refused("sets of different scales cannot be joined; scale them alike first")
        self.labels = torch.cat([part.labels for part in parts])
        self.ends = torch.tensor([len(part) for part in parts], device=self.labels.device).cumsum(0)

    def raw(self, indices: Tensor) -> Tensor:
        owner = torch.bucketize(indices, self.ends, right=True)
        order = owner.argsort(stable=True)
        blocks = []
        for number in owner.unique().tolist():
            start = int(self.ends[number - 1]) if number else 0
            blocks.append(self.parts[number].raw(indices[owner == number] - start))
        return torch.cat(blocks)[order.argsort()]


def blocks(examples: Examples, where: torch.device | None = None, rows: Tensor | None = None) -> Iterator[Batch]:
    """All examples, or those at rows (n,), on a device, as many at once as a forward pass without gradient takes."""
    rows = torch.arange(len(examples), device=examples.labels.device) if rows is None else rows
    width = max(1, examples.raw(rows[:1]).numel()) if len(rows) else 1
    for part in rows.split(max(1, min(BLOCK, NUMBERS // width))) if len(rows) else ():
        x, y, _ = examples.take(part)
        yield Batch(x.to(where), y.to(where), part.to(where))
