"""Splits a command line into options, as text: Python's, a file's and these are all checked in one place, `plan`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from perdure.cli import Help
from perdure.contract import Refused, unknown
from perdure.options import Option, flag

METAVARS = {"a whole number": "N", "a number": "X", "text": "TEXT", "a whole number or text": "N|TEXT"}


class Parser(argparse.ArgumentParser):
    """An `argparse` parser without abbreviations, whose errors are one message."""

    def __init__(self, verb: str, usage: str, description: str) -> None:
        super().__init__(
            prog=f"perdure {verb}",
            usage=usage,
            description=description.replace("%", "%%"),
            allow_abbrev=False,
            add_help=False,
            argument_default=argparse.SUPPRESS,
        )
        self.add_argument("-h", "--help", action="store_true", help="say this")

    @property
    def known(self) -> list[str]:
        """The options it has."""
        return [word for action in self._actions for word in action.option_strings]

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """What is given, by name; options may stand before, between and behind arguments.

        Raises:
            Help: it is asked for.
            Refused: the words mean nothing here.
        """
        given = vars(self.parse_intermixed_args(words))
        if "help" in given:
            raise Help(self.format_help())
        return given

    def error(self, message: str) -> NoReturn:
        """Refuses; an unknown option is answered with the nearest."""
        if wrong := re.fullmatch(r"argument (\S+): invalid (int|float) value: (.*)", message):
            message = f"{wrong[1]} is {wrong[3]}; it must be a {'whole ' if wrong[2] == 'int' else ''}number"
        _, _, extra = message.partition("unrecognized arguments: ")
        if extra.startswith("-"):
            raise unknown("option", extra.split()[0].partition("=")[0], self.known, f"See: {self.prog} --help")
        raise Refused(f"{message}. See: {self.prog} --help")


def parsed(parser: Parser, words: Iterable[str]) -> dict[str, Any]:
    """Options by name. Those that the parser does not know are taken with a value each, to be checked elsewhere.

    - and _ are alike in an option.
    """
    out, rest = [], iter(words)
    for word in rest:
        if word.startswith("--") and word != "--":
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if flag(name) not in parser.known:
                parser.add_argument(flag(name), dest=name, nargs="?", const="")  # a value may be missing, too
            if "." in name and not equals:  # joined with its value, which may begin with -
                equals, value = "=", next(rest, "")
            word = flag(name) + equals + value
        out.append(word)
    return vars(parser.parse_args(out))


def add(parser: Any, option: Option) -> None:
    """Adds an option to a parser, or to a group of one; its value stays text."""
    words = option.help.removesuffix(".")
    if option.kind == "true or false" and "." not in option.name:
        parser.add_argument(flag(option.name), dest=option.name, action="store_true", help=words.replace("%", "%%"))
        return
    if option.default is not None:
        default = str(option.default).lower() if isinstance(option.default, bool) else option.default
        words += f" (default: {default})" if default != "" else ""
    metavar = METAVARS.get(option.kind, option.kind.replace(" or ", "|"))
    parser.add_argument(flag(option.name), dest=option.name, metavar=metavar, help=words.replace("%", "%%"))
