"""Owners: which task each weight belongs to, where a task may also run on what earlier ones own.

An owner is the place of its task in the order of learning, from 1; 0 is nobody. A task that is forgotten leaves a gap
there, so that the others stay what they are to their weights. What it owned stays where later tasks may run on it, and
is free where there are none.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from perdure.model import Own, place_of

Params = dict[str, Tensor]


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
