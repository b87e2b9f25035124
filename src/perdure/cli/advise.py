"""Say which method suits: from what may be stored and what will be known to methods in order, bytes and reasons.

Without options, on a terminal, it asks one question at a time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from perdure.cli.parser import Parser, add
from perdure.contract import Refused, Scenario
from perdure.experiments.advice import Advice, Advised, Needs, advise
from perdure.options import Part, described, flag, typed
from perdure.report.table import size

USAGE = (
    "perdure advise --store WHAT --id known|unknown --labels shared|unshared --tasks N [OPTIONS]\n       perdure advise"
)
NEEDS = Part("", Needs)
MUST = ("store", "id", "labels", "tasks")  # without these there is no advice
QUESTIONS = {
    "store": "What may be kept of old tasks: examples, or nothing but what was learned?",
    "id": "When a label is asked for, is it known or unknown which task the input is of?",
    "labels": "Are labels shared by all tasks, or unshared: new ones in every task?",
    "boundaries": "In training, is it known or unknown where a task ends?",
    "look": "Do inputs of different tasks look alike (new classes of one source) or unlike (other sources)?",
    "tasks": "How many tasks will there be?",
    "bytes": "How many bytes may all that is remembered take, as in 20MB? (none for no limit)",
}
SHOWN = 6  # methods that a terminal is shown


def main(words: list[str]) -> int:
    """Carries out the verb."""
    parser = Parser("advise", USAGE, "Says which methods suit, the best first, what they will cost, and why.")
    for option in described(NEEDS):
        add(parser, option)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = parser.read(words)
    as_json = given.pop("json", False)
    if missing := [name for name in MUST if name not in given]:
        if not sys.stdin.isatty():
            flags = ", ".join(map(flag, missing))
            raise Refused(f"{flags} missing, and no terminal to ask on. See: perdure advise --help")
        given = _asked(given, missing if given else list(QUESTIONS))
    advice = advise(Needs(**typed(NEEDS, given)))
    if as_json:
        print(json.dumps(advice.to_json()))
    else:
        _show(Console(highlight=False), advice)
    return 0


def _asked(given: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """What is given, and the answers to questions; one that cannot be used is asked again.

    Raises:
        Refused: there are no more answers.
    """
    defaults = {option.name: option.default for option in described(NEEDS)}
    for name in names:
        if name == "boundaries" and given.get("id") == "known":
            continue  # whoever can name the task of an input knows where a task ends
        while name not in given:
            default = defaults[name] if defaults[name] is not None else "none"
            print(f"{QUESTIONS[name]} [{default}] ", end="", file=sys.stderr, flush=True)
            if not (line := sys.stdin.readline()):
                raise Refused(f"no answer to {flag(name)}")
            answer = line.strip() or str(default)
            try:
                if answer == "none" and defaults[name] is None:
                    break
                Needs(**typed(NEEDS, {name: answer}))
                given = {**given, name: answer}
            except Refused as refused:
                print(f"perdure: {refused}", file=sys.stderr)
    return given


def _show(console: Console, advice: Advice) -> None:
    """All of it, for a terminal."""

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    ranked, more = advice.advised[:SHOWN], advice.advised[SHOWN:]
    shown = (*ranked, *advice.baselines)
    marks = dict(zip(dict.fromkeys(one.source for one in shown if one.source), ascii_lowercase, strict=False))
    say("\n".join(advice.said))
    say(f"\nTaken: {_taken(advice.needs)}.\n")
    if ranked:
        console.print(_table(ranked, marks, ranked=True))
        say("")
        for why in dict.fromkeys(one.reason for one in ranked):
            say(f"{', '.join(one.method for one in ranked if one.reason == why)}: {why}")
    else:
        say("No method suits: see below what each would need.")
    if more:
        say(f"\nand after these: {', '.join(one.method for one in more)}")
    say("\nTo compare with: the floor, the ceiling, and a network a task.\n")
    console.print(_table(advice.baselines, marks, ranked=False))
    say("")
    for source, mark in marks.items():
        say(f"{mark}  {source}")
    if any(one.accuracy is None for one in shown):
        say("–  not measured here in this scenario: what speaks for it is its paper")
    if any(one.about for one in ranked):
        say("~  bytes that depend on the data, as a trial has them")
    for title, found in (("\nThese run here, and fail:\n", advice.warned), ("\nRuled out:\n", advice.ruled_out)):
        for why in [title] * bool(found) + list(dict.fromkeys(found.values())):
            names = ", ".join(name for name, its in found.items() if its == why)
            say(f"  {names}: {why}" if names else why)
    if advice.next:
        say(f"\nnext: {advice.next}")
    if "learner" in advice.next and "--store-no-data" not in advice.next:
        say("A learner also keeps exams, and 20 examples a class: --exam, --keep and --store-no-data say how many.")


def _taken(needs: Needs) -> str:
    """What the answer rests on beside what was asked, as it is given or by default."""
    taken = f"{needs.classes} classes and {needs.examples:,} examples a task, inputs of {needs.input}, net {needs.net}"
    return taken + (f", tasks that look {needs.look}" if needs.scenario is not Scenario.GG else "")


def _table(rows: Sequence[Advised], marks: Mapping[str, str], ranked: bool) -> Table:
    """A line for each method: its bytes by number of tasks, and its accuracy with a mark of what showed it."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    counts = [*rows[0].bytes]
    for title in (*[""] * ranked, "method", *(f"{tasks:,} tasks" for tasks in counts), "measured"):
        table.add_column(title, justify="left" if title == "method" else "right", no_wrap=True)
    for place, one in enumerate(rows, 1):
        sizes = [one.bytes[tasks] for tasks in counts]
        cells = ["full" if count is None else "~" * one.about + size(count) for count in sizes]
        accuracy = "–" if one.accuracy is None else f"{one.accuracy:.1%} {marks[one.source]}"
        table.add_row(*[str(place)] * ranked, one.method, *cells, accuracy)
    return table
