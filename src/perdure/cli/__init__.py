"""The command line: `perdure VERB ...`. A verb is a file, imported when it is asked for."""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from perdure import __version__
from perdure.cli.docstrings import first_sentence

VERBS = {
    "run": "perdure.cli.run",
    "sweep": "perdure.cli.sweep",
    "list": "perdure.cli.list_",
    "show": "perdure.cli.show",
    "report": "perdure.cli.report",
    "compare": "perdure.cli.compare",
    "advise": "perdure.cli.advise",
    "reproduce": "perdure.cli.reproduce",
    "figure": "perdure.cli.figure",
    "learner": "perdure.cli.learner",
    "doctor": "perdure.cli.doctor",
}


class Help(Exception):
    """Help was asked for, and here it is."""


def main(words: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit status: 0, 2 for input that cannot be used, 130 when interrupted."""
    words = sys.argv[1:] if words is None else list(words)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warned
            status = _obey(words)
        sys.stdout.flush()  # a broken pipe shows here, not at exit
        return status
    except KeyboardInterrupt:
        return fail("stopped", 130)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        from perdure.contract import Refused  # brings torch

        if not isinstance(error, Refused):
            raise
        return fail(str(error))


def fail(message: str, status: int = 2) -> int:
    """Says one thing on stderr; the exit status."""
    print(f"perdure: {message}", file=sys.stderr)
    return status


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    print(f"perdure: {message}", file=sys.stderr)


def _obey(words: Sequence[str]) -> int:
    match words:
        case [] | ["-h" | "--help", *_]:
            print(usage())
            return 0
        case ["--version", *_]:
            print(__version__)
            return 0
        case [verb, *rest] if verb in VERBS:
            try:
                status: int = import_module(VERBS[verb]).main(rest)
            except Help as help:
                print(help, end="")
                return 0
            return status
    near = difflib.get_close_matches(words[0], VERBS, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return fail(f"unknown verb {words[0]!r}{hint} There are: {', '.join(VERBS)}")


def usage() -> str:
    """The help of `perdure` itself; no verb is imported for it."""
    verbs = [f"  {verb:<10} {first_sentence(module)}" for verb, module in VERBS.items()]
    return "\n".join(
        [
            "Perdure: lifelong learning. One network learns task after task and keeps them.",
            "",
            "usage: perdure VERB [ARGUMENTS]",
            "",
            *verbs,
            "",
            "perdure VERB --help says more of one, perdure --version which version this is.",
            "A start: perdure run permuted-digits ewc",
        ]
    )
