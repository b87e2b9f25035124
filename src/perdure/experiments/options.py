"""Options by name: checked against the signature they are for, and turned into methods."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from importlib import import_module, util
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from perdure.contract import Fit, Method, Refused
from perdure.methods import METHODS


def unknown(what: str, name: str, known: Iterable[str]) -> Refused:
    """The error for a name that is not known: it says which is nearest."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return Refused(f"unknown {what} {name!r}; {hint}There are: {', '.join(known)}")


def typed(
    signature: Callable[..., Any], given: Mapping[str, Any], part: str, skip: Sequence[str] = ()
) -> dict[str, Any]:
    """Options checked against the types of a signature; strings are parsed.

    Raises:
        Refused: an unknown name (the nearest is named) or a value of the wrong type.
    """
    parser = ArgumentParser(exit_on_error=False)
    if inspect.isclass(signature):
        parser.add_class_arguments(signature, skip=set(skip))
    else:
        parser.add_function_arguments(signature, skip=set(skip))
    names = set(inspect.signature(signature).parameters) - set(skip)
    out = {}
    for name, value in given.items():
        if name not in names:
            raise unknown("option", f"--{part}.{name}", [f"--{part}.{known}" for known in names])
        try:
            out[name] = parser.parse_object({name: value})[name]
        except (ArgumentError, TypeError, ValueError, KeyError) as error:
            kind = inspect.signature(signature).parameters[name].annotation
            raise Refused(f"--{part}.{name} is {value!r}; it must be {kind}") from error
    return out


def method_class(name: str) -> type[Method]:
    """The class of a method, by name or as FILE.py:CLASS (which runs the file).

    Raises:
        Refused: there is no such method, file or class.
    """
    file, _, wanted = name.rpartition(":")
    if not file:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
        module, _, wanted = METHODS[name].partition(":")
        found = getattr(import_module(module), wanted)
    else:
        path = Path(file)
        if not path.is_file():
            raise Refused(f"there is no file {path} (a method of your own is named FILE.py:CLASS)")
        spec = util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise Refused(f"{path} is no Python file (a method of your own is named FILE.py:CLASS)")
        module_of = util.module_from_spec(spec)
        spec.loader.exec_module(module_of)
        found = getattr(module_of, wanted, None)
        if not inspect.isclass(found) or not issubclass(found, Method):
            own = [
                k
                for k, v in vars(module_of).items()
                if inspect.isclass(v) and issubclass(v, Method) and v is not Method
            ]
            raise Refused(f"{path} has no method {wanted!r}; it has {', '.join(own) or 'none'}")
    return found  # type: ignore[no-any-return]


def default_fit(cls: type[Method]) -> Fit:
    """The fit that a method ships with."""
    default = next(item.default for item in fields(cls) if item.name == "fit")
    return Fit() if default is MISSING else default


def build_method(cls: type[Method], net: nn.Module, options: Mapping[str, Any], fit: Mapping[str, Any]) -> Method:
    """A method with its own defaults under the given options.

    Raises:
        Refused: an unknown option, a value of the wrong type or out of range.
    """
    base, given = default_fit(cls), typed(Fit, fit, "fit")
    if given.get("epochs") is not None and given.get("steps") is None:
        base = replace(base, steps=None)
    if given.get("steps") is not None and given.get("epochs") is None:
        base = replace(base, epochs=None)
    return cls(net=net, fit=replace(base, **given), **typed(cls, options, "method", skip=("net", "fit")))
