"""Options by name: checked against the signature they are for, and turned into methods."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from functools import cache, lru_cache
from importlib import import_module, util
from math import isfinite
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from perdure import streams
from perdure.contract import Fit, Method, Refused, Scenario, unknown
from perdure.methods import METHODS

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class Part(NamedTuple):
    """Options that belong together: the parameters of one signature."""

    prefix: str  # "fit."; empty for options without a dot
    signature: Callable[..., Any]
    skip: Sequence[str] = ()  # parameters that are no options


class Option(NamedTuple):
    """One option as help shows it."""

    name: str
    kind: str  # "a whole number", "sgd or adam"
    default: Any
    help: str


def flag(name: str) -> str:
    """An option as it is typed: --fit.weight_decay, --exam-rows."""
    return "--" + (name if "." in name else name.replace("_", "-"))


def kind(hint: Any) -> str:
    """A type in words; that an option may be left out goes without saying."""
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(kind(part) for part in get_args(hint) if part is not NoneType)
    return WORDS.get(hint, str(hint))


def described(part: Part) -> list[Option]:
    """The options of a part: types and defaults from the signature, help from its docstring."""
    hints = get_type_hints(part.signature)
    words = {
        item.arg_name: item.description or "" for item in docstring_parser.parse(part.signature.__doc__ or "").params
    }
    return [
        Option(part.prefix + name, kind(hints[name]), parameter.default, " ".join(words.get(name, "").split()))
        for name, parameter in inspect.signature(part.signature).parameters.items()
        if name not in part.skip
    ]


@cache
def _reader(part: Part) -> tuple[ArgumentParser, dict[str, str], set[str]]:
    """What parses the options of a part, their kinds in words, and which of them may be None."""
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(part.signature) else parser.add_function_arguments
    add(part.signature, skip=set(part.skip))
    optional = {name for name, hint in get_type_hints(part.signature).items() if NoneType in get_args(hint)}
    return parser, {option.name: option.kind for option in described(part)}, optional


@lru_cache(4096, typed=True)  # a sweep asks the same again and again
def _parsed(part: Part, name: str, value: Any) -> Any:
    """One value, checked against its type."""
    return _reader(part)[0].parse_object({name: value})[name]


def typed(part: Part, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for a signature among some options, checked against its types; strings are parsed.

    Raises:
        Refused: a name with the part's prefix is unknown (the nearest is named), or a value is of the wrong type.
    """
    _, kinds, optional = _reader(part)
    out = {}
    for name, value in options.items():
        if part.prefix and name.startswith(part.prefix) and name not in kinds:
            raise unknown("option", flag(name), map(flag, kinds))
        if name in kinds:
            bare = name.removeprefix(part.prefix)
            try:
                out[bare] = (_parsed if isinstance(value, Hashable) else _parsed.__wrapped__)(part, bare, value)
                if isinstance(out[bare], float) and not isfinite(out[bare]):
                    raise ValueError("it is not finite")
                if out[bare] is None and bare not in optional:
                    raise TypeError("it is None")
            except (ArgumentError, TypeError, ValueError, KeyError) as error:
                raise Refused(f"{flag(name)} is {value!r}; it must be {kinds[name]}") from error
    return out


FIT = Part("fit.", Fit)


def of_method(cls: type[Method]) -> Part:
    """The options of a method."""
    return Part("method.", cls, ("net", "fit"))


def of_stream(name: str) -> Part:
    """The options of a stream, by its name.

    Raises:
        Refused: there is no such kind of stream.
    """
    return Part("stream.", streams.kind("arrays" if name.endswith(".npz") else name.partition("-")[0]), streams.ASKED)


def method_class(name: str) -> type[Method]:
    """The class of a method, by name or as FILE.py:CLASS (which runs the file).

    Raises:
        Refused: there is no such method, file or class.
    """
    file, _, wanted = (name if ":" in name or not name.endswith(".py") else f"{name}:").rpartition(":")
    if not file:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
        module, _, wanted = METHODS[name].partition(":")
        found = getattr(import_module(module), wanted)
    else:
        module_of = _imported(path := Path(file))
        found = getattr(module_of, wanted, None)
        if not inspect.isclass(found) or not issubclass(found, Method):
            own = [
                k
                for k, v in vars(module_of).items()
                if inspect.isclass(v) and issubclass(v, Method) and v is not Method
            ]
            raise Refused(f"{path} has no method {wanted!r}; it has {', '.join(own) or 'none'}")
    return found  # type: ignore[no-any-return]


def _imported(path: Path) -> ModuleType:
    """The module of a user's file; it is registered, since dataclasses look their module up."""
    if not path.is_file():
        raise Refused(f"there is no file {path} (a method of your own is named FILE.py:CLASS)")
    spec = util.spec_from_file_location(f"own_{path.stem}_{abs(hash(path.resolve())):x}", path)
    if spec is None or spec.loader is None:
        raise Refused(f"{path} is no Python file (a method of your own is named FILE.py:CLASS)")
    module = sys.modules[spec.name] = util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Refused(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def known_failure(name: str, method: Method, scenario: Scenario) -> str:
    """What to say before a method runs where it is known to fail; nothing where it is not, or where it rehearses."""
    if not method.rehearses and (why := method.fails.get(scenario)):
        said = f"{name.rpartition('/')[2]} is known to fail in scenario {scenario.value}: {why}"
        return f"warning: {said}. What else there is: perdure advise"
    return ""


def default_fit(cls: type[Method]) -> Fit:
    """The fit that a method ships with."""
    default = next(item.default for item in fields(cls) if item.name == "fit")
    return Fit() if default is MISSING else default


def build_method(cls: type[Method], net: nn.Module, options: Mapping[str, Any]) -> Method:
    """A method with its own defaults under the given options: {"fit.lr": 0.1, "method.lam": 10}.

    Raises:
        Refused: an unknown option, a value of the wrong type or out of range, or a class that lacks a verb.
    """
    if inspect.isabstract(cls):
        raise Refused(f"{cls.__name__} is no whole method: it lacks {', '.join(sorted(cls.__abstractmethods__))}")
    base, given = default_fit(cls), typed(FIT, options)
    if given.get("epochs") is not None and given.get("steps") is None:
        base = replace(base, steps=None)
    if given.get("steps") is not None and given.get("epochs") is None:
        base = replace(base, epochs=None)
    fit = replace(base, **given)
    if given.get("momentum") and fit.optimizer in ("adam", "adamw"):
        raise Refused(f"fit.momentum is {given['momentum']}, and {fit.optimizer} has none; use sgd or rmsprop")
    return cls(net=net, fit=fit, **typed(of_method(cls), options))
