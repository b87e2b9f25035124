"""Trees: a state is made of dicts, tuples, NamedTuples, tensors, numbers, strings and None.

`pack` turns a tree into plain JSON and a flat list of tensors, `unpack` turns it back. Nothing else is accepted, so a
file of one can hold no code; a NamedTuple comes back only if its reader names the class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from perdure.contract import Refused

Tree = Any


def transform(tree: Tree, change: Callable[[Tensor], Any]) -> Tree:
    """The same tree with every tensor changed."""
    match tree:
        case Tensor():
            return change(tree)
        case dict():
            return {name: transform(branch, change) for name, branch in tree.items()}
        case tuple():
            branches = [transform(branch, change) for branch in tree]
            return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
        case None | bool() | int() | float() | str():
            return tree
    raise TypeError(f"a state may not hold a {type(tree).__name__}; use dicts, tuples, tensors, numbers and strings")


def to(tree: Tree, device: torch.device | str) -> Tree:
    """The same tree on a device."""
    return transform(tree, lambda tensor: tensor.to(device))


def leaves(tree: Tree) -> Iterator[tuple[str, Any]]:
    """Every leaf with its path, in order: ("model.params.0.weight", tensor)."""
    match tree:
        case dict():
            named: list[tuple[str, Tree]] = list(tree.items())
        case tuple():
            named = list(zip(getattr(tree, "_fields", map(str, range(len(tree)))), tree, strict=True))
        case _:
            yield "", tree
            return
    for name, branch in named:
        for path, leaf in leaves(branch):
            yield f"{name}.{path}" if path else str(name), leaf


def nbytes(tree: Tree) -> int:
    """Bytes of all tensors in a tree (a tensor that appears twice counts once)."""
    tensors = {leaf.data_ptr(): leaf for _, leaf in leaves(tree) if isinstance(leaf, Tensor) and leaf.numel()}
    return sum(leaf.numel() * leaf.element_size() for leaf in tensors.values())


def parts(tree: Tree) -> Iterator[tuple[str, Any]]:
    """Every leaf, in order, with the part of a state it belongs to: its field, "model".

    Where a field holds a tuple of NamedTuples, one a task, theirs follow, and all tasks share them: "tasks.head".
    """
    fields = tree._asdict() if hasattr(tree, "_fields") else {"state": tree}
    for name, branch in fields.items():
        yield from _parts(branch, name, deep=False)


def _parts(tree: Tree, name: str, deep: bool) -> Iterator[tuple[str, Any]]:
    match tree:
        case tuple() if deep and hasattr(tree, "_fields"):
            for field, branch in zip(tree._fields, tree, strict=True):
                yield from _parts(branch, f"{name}.{field}", deep)
        case tuple() | dict():
            items = tree.values() if isinstance(tree, dict) else tree
            for branch in items:
                yield from _parts(branch, name, deep or (type(tree) is tuple and hasattr(branch, "_fields")))
        case _:
            yield name, tree


def components(tree: Tree) -> dict[str, int]:
    """Bytes by part: {"model": 1069000, "precision": ...}; a tensor that appears twice counts where it is first."""
    first = dict[int, tuple[str, Tensor]]()
    for part, leaf in parts(tree):
        if isinstance(leaf, Tensor) and leaf.numel():
            first.setdefault(leaf.data_ptr(), (part, leaf))
    sizes = dict[str, int]()
    for part, leaf in first.values():
        sizes[part] = sizes.get(part, 0) + leaf.numel() * leaf.element_size()
    return sizes


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not a.is_floating_point():
            return torch.equal(a, b)
        width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
        return torch.equal(a.contiguous().view(width), b.contiguous().view(width))
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex()
    return type(a) is type(b) and bool(a == b)


def equal(a: Tree, b: Tree) -> bool:
    """Whether two trees are the same, bit for bit (so -0.0 differs from 0.0, and a NaN equals itself)."""
    one, two = list(leaves(a)), list(leaves(b))
    return len(one) == len(two) and all(p == q and _same(x, y) for (p, x), (q, y) in zip(one, two, strict=True))


def pack(tree: Tree) -> tuple[Any, list[Tensor]]:
    """A tree as plain JSON, in which a tensor is its place in the list beside it."""
    tensors: list[Tensor] = []

    def plain(tree: Tree) -> Any:
        match tree:
            case Tensor():
                tensors.append(tree.detach().cpu().contiguous())
                return {"tensor": len(tensors) - 1}
            case dict():
                if not all(isinstance(name, str) for name in tree):
                    raise TypeError("a dict in a state has names (strings) as keys")
                return {"dict": {name: plain(branch) for name, branch in tree.items()}}
            case tuple():
                kind = type(tree).__name__ if hasattr(tree, "_fields") else "tuple"
                return {"tuple": kind, "items": [plain(branch) for branch in tree]}
            case None | bool() | int() | float() | str():
                return {"value": tree}
        raise TypeError(f"a state may not hold a {type(tree).__name__}")

    return plain(tree), tensors


def unpack(plain: Any, tensors: Sequence[Tensor], kinds: Sequence[type] = ()) -> Tree:
    """The tree that `pack` took apart. `kinds`: the NamedTuples it may hold.

    Raises:
        Refused: the JSON is not one of a tree, or holds a NamedTuple that is not among `kinds`.
    """
    named = {kind.__name__: kind for kind in kinds}
    match plain:
        case {"tensor": int(place)} if 0 <= place < len(tensors):
            return tensors[place]
        case {"dict": dict(branches)}:
            return {name: unpack(branch, tensors, kinds) for name, branch in branches.items()}
        case {"tuple": str(kind), "items": list(items)}:
            parts = [unpack(item, tensors, kinds) for item in items]
            if kind == "tuple":
                return tuple(parts)
            fields, defaults = (len(getattr(named.get(kind), name, ())) for name in ("_fields", "_field_defaults"))
            if kind in named and fields - defaults <= len(parts) <= fields:  # fields that came later have a default
                return named[kind](*parts)
            raise Refused(f"the stored state holds a {kind[:80]!r}, which this method does not declare")
        case {"value": value} if value is None or isinstance(value, (bool, int, float, str)):
            return value
    raise Refused("the stored state is damaged: it does not describe a tree")
