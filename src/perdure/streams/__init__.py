"""The streams, one kind a file. `STREAMS` maps a kind to "module:function"; nothing is imported before its use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.contract import Scenario
    from perdure.streams.stream import Stream

__all__ = ["STREAMS", "build", "kind"]

STREAMS = {
    "permuted": "perdure.streams.permuted:permuted",
    "rotated": "perdure.streams.rotated:rotated",
    "split": "perdure.streams.split:split",
    "noisy": "perdure.streams.noisy:noisy",
    "drifting": "perdure.streams.drifting:drifting",
    "arrays": "perdure.streams.arrays:arrays",
}
ASKED = ("base", "path", "tasks", "scenario", "examples_per_task")  # parameters of a kind that are not its options


def kind(name: str) -> Callable[..., Stream]:
    """The function that makes a kind of stream; its keyword parameters are the options.

    Raises:
        Refused: there is no such kind.
    """
    from perdure.contract import unknown

    if name not in STREAMS:
        raise unknown("kind of stream", name, STREAMS)
    module, _, function = STREAMS[name].partition(":")
    made: Callable[..., Stream] = getattr(import_module(module), function)
    return made


def build(
    name: str,
    *,
    tasks: int | None = None,
    scenario: Scenario | str | None = None,
    examples_per_task: int | None = None,
    data_root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Stream:
    """A stream by name: KIND-BASE ("permuted-mnist") or the path of an .npz file.

    Args:
        tasks, scenario: the kind's own when not given.
        examples_per_task: training examples drawn from each task; all of them when not given.
        data_root: where to look for the base first.
        options: the kind's own, and `seed`, `scale`, `chunk`, `passes`.

    Raises:
        Refused: a name or an option that nothing has (names the nearest), or an option out of range.
    """
    from perdure.contract import Refused, unknown
    from perdure.datasets import find
    from perdure.streams.stream import at_least_one, parse_scenario

    own = name.endswith(".npz")
    word, _, base = ("arrays", "", name) if own else name.partition("-")
    make = kind(word)
    if not own and (word == "arrays" or not base):
        wish = "the path of an .npz file" if word == "arrays" else f"a base after it: {word}-digits"
        raise Refused(f"{name!r} is a kind of stream; name {wish}")
    chosen = dict(options or {})
    known = [f"stream.{option}" for option in signature(make).parameters if option not in ASKED]
    for option in chosen:
        if f"stream.{option}" not in known:
            raise unknown("option", f"stream.{option}", known)
    for option, count in (("tasks", tasks), ("examples_per_task", examples_per_task)):
        if count is not None:
            at_least_one(**{option: count})
            chosen[option] = count
    chosen["scenario"] = parse_scenario(scenario) if isinstance(scenario, str) else scenario
    return make(base if own else find(base, data_root)(), **chosen)
