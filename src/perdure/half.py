"""Half precision: forward passes in bfloat16. Weights, losses, and all that is computed of them, stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

_halved: ContextVar[bool] = ContextVar("halved", default=False)


@contextmanager
def halved(whether: bool) -> Iterator[None]:
    """Lets forward passes inside the block be taken in bfloat16, or not."""
    token = _halved.set(whether)
    try:
        yield
    finally:
        _halved.reset(token)


def passing(device: torch.device) -> AbstractContextManager[object]:
    """Around one forward pass; `single` takes back what it returns."""
    if not _halved.get():
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def single(x: Tensor) -> Tensor:
    """What came out of a forward pass, as it would without half precision."""
    return x.float() if _halved.get() else x
