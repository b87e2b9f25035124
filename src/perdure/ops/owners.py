"""Owners: which task each weight belongs to, where a task may also run on what earlier ones own.

An owner is the place of its task in the order of learning, from 1; 0 is nobody. A task that is forgotten leaves a gap
there, so that the others stay what they are to their weights. What it owned stays where later tasks may run on it, and
is free where there are none.

At work owners are a byte a weight. At rest they are a mask a task: which of the weights that no earlier task owns are
its own. Together these take about what the shares of the tasks leave undecided, n H(shares) bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from perdure.contract import Refused
from perdure.model import Own, place_of
from perdure.ops.codec import encode, restored

Params = dict[str, Tensor]
Codes = dict[str, tuple[Tensor, ...]]
MOST = 255  # owners that a byte can tell apart, beside nobody


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
    masks: Codes = dict.fromkeys(owner, ())
    for t in range(1, tasks + 1):
        masks = with_task(masks, owner, t)
    return masks


def with_task(masks: Codes, owner: Params, t: int) -> Codes:
    """Masks of the tasks before the t-th, with that of the t-th: which of what none of them owns is its own."""
    return {name: (*masks[name], encode(mine[(mine == 0) | (mine >= t)] == t)) for name, mine in owner.items()}


def at_work(masks: Codes, params: Mapping[str, Tensor], tasks: int) -> Params:
    """The owners that `at_rest` took, uint8 in the shapes of the parameters they are of.

    Raises:
        Refused: there is no mask for each task, or one is damaged, as far as its code tells.
    """

    def owners(name: str) -> Tensor:
        if name not in params or not isinstance(masks[name], tuple) or len(masks[name]) != tasks or tasks > MOST:
            raise Refused(
                f"there are no masks of owners for the {tasks} tasks of {name}; an older perdure wrote others"
            )
        left, parts = params[name].numel(), list[Tensor]()
        for code in masks[name]:
            parts.append(restored(code, left))
            left -= int(parts[-1].sum())
        owner = torch.zeros(left, dtype=torch.uint8, device=params[name].device)
        for t, own in reversed(list(enumerate(parts, 1))):
            owner = torch.full_like(own, t, dtype=torch.uint8).masked_scatter_(~own, owner)
        return owner.view(params[name].shape)

    return {name: owners(name) for name in masks}
