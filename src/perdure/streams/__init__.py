"""The streams, one kind a file. `STREAMS` maps a kind to "module:function"; nothing is imported before its use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

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
    from perdure.datasets.base import unknown

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
        Refused: a name or an option that nothing has (names the nearest), of the wrong type, or out of range.
    """
    from perdure.contract import Refused
    from perdure.datasets import find
    from perdure.streams.stream import at_least_one, parse_scenario

    own = name.endswith(".npz")
    word, _, base = ("arrays", "", name) if own else name.partition("-")
    make = kind(word)
    if not own and (word == "arrays" or not base):
        wish = "the path of an .npz file" if word == "arrays" else f"a base after it: {word}-digits"
        raise Refused(f"{name!r} is a kind of stream; name {wish}")
    chosen = dict(options or {})
    _check(word, make, chosen)
    for option, count in (("tasks", tasks), ("examples_per_task", examples_per_task)):
        if count is not None:
            at_least_one(**{option: count})
            chosen[option] = count
    chosen["scenario"] = parse_scenario(scenario) if isinstance(scenario, str) else scenario
    return make(base if own else find(base, data_root)(), **chosen)


def _check(word: str, make: Callable[..., Stream], options: Mapping[str, Any]) -> None:
    """Refuses options that a kind does not have, or of another type, before any data is read."""
    from perdure.contract import Refused
    from perdure.datasets.base import unknown

    known = [option for option in signature(make).parameters if option not in ASKED]
    hints = get_type_hints(make)
    for option, value in options.items():
        if option not in known:
            raise unknown(f"option of {word} streams named", option, known)
        if not _fits(value, hints[option]):
            raise Refused(f"stream.{option} is {value!r}; it must be {_words(hints[option])}")


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _words(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(map(_words, get_args(hint)))
    if get_origin(hint) is Literal:
        return " or ".join(get_args(hint))
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "none"}[hint]
