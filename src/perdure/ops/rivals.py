"""Sets of labels that compete among themselves, where the examples of several tasks are learned together."""

from __future__ import annotations

import torch
from torch import Tensor

Sets = tuple[tuple[int, ...], ...]  # sets of labels


def enlist(sets: Sets, classes: Tensor | None) -> tuple[Sets, int]:
    """The sets of labels that compete among themselves, with that of one more task, and its place among them.

    `classes` is None where all labels compete: then there are no sets.
    """
    if classes is None:
        return sets, 0
    names = tuple(classes.tolist())
    sets = sets if names in sets else (*sets, names)
    return sets, sets.index(names)


def rivals(labels: Tensor, sets: Sets) -> tuple[Tensor | None, Tensor | None]:
    """How examples of several tasks are learned together, when each competes within its own set of labels.

    Returns:
        What `Descent` takes as `classes`: (n,) the only set there is, or None.
        What to add to the logits of an example of each set, (len(sets), n): 0 for its own labels and -inf for the
        rest; None where there are fewer than two sets.
    """
    own = [torch.tensor(names, device=labels.device) for names in sets]
    if len(own) < 2:
        return next(iter(own), None), None
    competes = torch.stack([torch.isin(labels, names) for names in own])
    return None, torch.zeros(competes.shape, device=labels.device).masked_fill_(~competes, -torch.inf)
