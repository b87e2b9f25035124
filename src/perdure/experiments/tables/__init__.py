"""Published tables: each a typed function in a file of its own. `TABLES` maps a name to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from perdure.contract import unknown
from perdure.experiments.tables.a_gem import a_gem_cifar, a_gem_permuted
from perdure.experiments.tables.der import der_rotated
from perdure.experiments.tables.gem import gem_rotated
from perdure.experiments.tables.hw14 import hw14, hw14_rotated
from perdure.experiments.tables.noisy import noisy_pair
from perdure.experiments.tables.si import si_permuted
from perdure.experiments.tables.split_cifar import split_cifar100
from perdure.experiments.tables.supsup import supsup_mnist, supsup_refresh
from perdure.experiments.tables.table import Claim, Table
from perdure.experiments.tables.three_scenarios import permuted_mnist, split_mnist

__all__ = ["TABLES", "Claim", "Table", "table"]

TABLES: dict[str, Callable[[], Table]] = {
    "hw14-21": hw14,
    "hw14-22": hw14_rotated,
    "noisy-pair": noisy_pair,
    "vdv-split": split_mnist,
    "a-gem-permuted": a_gem_permuted,
    "a-gem-cifar": a_gem_cifar,
    "gem-rotated": gem_rotated,
    "der-rotated": der_rotated,
    "supsup-mnist": supsup_mnist,
    "supsup-refresh": supsup_refresh,
    "split-cifar100": split_cifar100,
    "vdv-permuted": permuted_mnist,
    "si-permuted": si_permuted,
}


@cache
def table(name: str) -> Table:
    """A published table by name.

    Raises:
        Refused: there is none of that name; the nearest is named.
    """
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    return TABLES[name]()
