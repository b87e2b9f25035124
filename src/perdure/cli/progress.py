"""Progress on stderr: bars on a terminal, one plain line a task elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isnan

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from perdure.fold import Moment

Watch = Callable[[Moment], None]


@contextmanager
def shown(seeds: Sequence[int] = (0,), noun: str = "task", label: str = "") -> Iterator[Watch]:
    """What to hand to a run as `watch`, inside the block.

    Args:
        seeds: of all runs that will be watched, one after another.
        noun: what a call of `learn` learns: a task or a chunk.
        label: what is running, where that is not plain.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def place(moment: Moment) -> str:
        """ "ewc, seed 1, task 2 of 5"."""
        seed = [f"seed {moment.seed}"] if len(seeds) > 1 else []
        return ", ".join([label] * bool(label) + seed + [f"{noun} {moment.call} of {moment.calls}"])

    def done(moment: Moment) -> int:
        """Calls before this one, over all seeds."""
        return seeds.index(moment.seed) * moment.calls + moment.call - 1

    if console.is_terminal:
        columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[says]}")]
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
            yield noted(console, _bars(bars, len(seeds), place, done))
    else:
        yield noted(console, _lines(console, len(seeds), place, done))


def noted(console: Console, watch: Watch) -> Watch:
    """The same, with each note said once."""
    said = set[str]()

    def see(moment: Moment) -> None:
        if moment.note and moment.note not in said:
            said.add(moment.note)
            console.print(f"perdure: {moment.note}", markup=False)
        watch(moment)

    return see


def _bars(bars: Progress, seeds: int, place: Callable[[Moment], str], done: Callable[[Moment], int]) -> Watch:
    """A bar for the steps of this task, with its loss, and one for all tasks, with the accuracy so far."""
    this, everything = (bars.add_task(name, total=None, says="") for name in ("", "all"))

    def watch(moment: Moment) -> None:
        total = seeds * moment.calls
        if moment.doing == "learning" and moment.progress is not None:
            step, steps, loss = moment.progress
            bars.update(
                this, description=place(moment), completed=step, total=steps, says=f"step {step:,}, loss {loss:.3f}"
            )
            bars.update(everything, completed=done(moment) + step / steps, total=total)
        elif moment.doing == "examined" and moment.call:
            bars.update(everything, completed=done(moment) + 1, total=total, says=_accuracy(moment))

    return watch


def _lines(console: Console, seeds: int, place: Callable[[Moment], str], done: Callable[[Moment], int]) -> Watch:
    """One line when a task has been learned and examined."""
    loss, first, begun = float("nan"), -1, 0.0

    def watch(moment: Moment) -> None:
        nonlocal loss, first, begun
        if moment.doing == "learning" and moment.progress is not None:
            loss = moment.progress.loss
            if first < 0:
                first, begun = done(moment), time.monotonic()
        elif moment.doing == "learned" and first < 0:  # by a loop of its own, which said nothing on the way
            first, begun = done(moment), time.monotonic() - moment.seconds
        elif moment.doing == "examined" and moment.call:
            spent, learned = time.monotonic() - begun, done(moment) + 1 - first
            left = spent / learned * (seeds * moment.calls - done(moment) - 1)
            tail = f", about {left:.0f} s left" if left else ""
            says = f"{place(moment)}: loss {loss:.3f}, {_accuracy(moment)}, {spent:.0f} s{tail}"
            console.print(says, markup=False)

    return watch


def _accuracy(moment: Moment) -> str:
    return "not examined" if isnan(moment.accuracy) else f"accuracy {100 * moment.accuracy:.1f} %"
