"""Owners: which task each weight belongs to, where a task may also run on what earlier ones own.

An owner is the place of its task in the order of learning, from 1; 0 is nobody. A task that is forgotten leaves a gap
there, so that the others stay what they are to their weights. What it owned stays where later tasks may run on it, and
is free where there are none.

At work owners are a byte a weight. At rest they are a mask a task: which of the weights that no earlier task owns are
its own. Together these take about what the shares of the tasks leave undecided, n H(shares) bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from perdure.model import Own, place_of
from perdure.ops.codec import decode, encode, unpack

Params = dict[str, Tensor]
Codes = dict[str, tuple[Tensor, ...]]


def indices(parts: tuple[Own | None, ...]) -> list[int | None]:
    """The index of each task, None where one is forgotten."""
    return [None if part is None else part.task for part in parts]


def vacated(parts: tuple[Own | None, ...], index: int) -> tuple[Own | None, ...]:
    """What is kept of each task, None in place of one; there are no gaps at the end.

    Raises:
        Refused: nothing is kept of that one.
    """
    place = place_of(index, indices(parts))
    parts = (*parts[:place], None, *parts[place + 1 :])
    return parts[: max((end for end, part in enumerate(parts, 1) if part is not None), default=0)]


def released(params: Params, owner: Params, tasks: int, fresh: Mapping[str, Tensor]) -> tuple[Params, Params]:
    """Parameters and owners after all that belongs to none of the first `tasks` is free: such weights start fresh."""
    kept = {name: mine <= tasks for name, mine in owner.items()}
    freed = {name: params[name].where(mine, fresh[name].to(params[name])) for name, mine in kept.items()}
    return params | freed, {name: mine * kept[name] for name, mine in owner.items()}


def at_rest(owner: Params, tasks: int) -> Codes:
    """Owners (uint8, by name) as a coded mask a task, in the order of learning.

    Args:
        tasks: the highest owner there may be.
    """

    def masks(mine: Tensor) -> Iterator[Tensor]:
        rest = mine.flatten()
        for t in range(1, tasks + 1):
            own = rest == t
            yield encode(own)
            rest = rest[~own]

    return {name: tuple(masks(mine)) for name, mine in owner.items()}


def at_work(codes: Codes, params: Mapping[str, Tensor]) -> Params:
    """The owners that `at_rest` took, uint8 in the shapes of the parameters they are of.

    Raises:
        Refused: a mask is damaged, or of parameters of another size.
    """

    def owners(masks: tuple[Tensor, ...], like: Tensor) -> Tensor:
        owner = torch.zeros_like(like, dtype=torch.uint8, memory_format=torch.contiguous_format)
        free = torch.arange(like.numel(), device=like.device)
        for t, code in enumerate(masks, 1):
            own = unpack(decode(code, len(free)), len(free))
            owner.view(-1)[free[own]] = t
            free = free[~own]
        return owner

    return {name: owners(masks, params[name]) for name, masks in codes.items()}
