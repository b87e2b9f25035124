"""The laws that every method keeps, on tiny streams: `check_method(MyMethod(net))` tests anyone's method.

A law (`laws`) is a small function that takes a `Case` (`case`: one method in one scenario, on four tasks of two
classes, 120 examples each) and raises `LawBroken` with what was seen and what to do. The data, the network and the
length of training are the laws' own, so a whole check takes seconds; hyper-parameters and the kind of optimiser are
the method's.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from perdure.contract import Fit, Method, Refused, Scenario
from perdure.testing.case import Case, LawBroken
from perdure.testing.laws import LAWS, ONCE

__all__ = ["LAWS", "Case", "LawBroken", "cases", "check", "check_method"]


def cases(method: Method, scenarios: Iterable[Scenario] | None = None) -> list[tuple[str, Scenario]]:
    """Every law that has something to say about a method, with the scenario to check it in.

    Raises:
        Refused: a scenario is asked for that the method does not support.
    """
    supported = [scenario for scenario in Scenario if scenario in method.scenarios]
    if not supported:
        raise LawBroken(
            f"{type(method).__name__} declares no scenario; say scenarios = frozenset({{Scenario.GG, ...}})"
        )
    chosen = supported if scenarios is None else list(scenarios)
    if strange := [scenario.value for scenario in chosen if scenario not in supported]:
        works = ", ".join(scenario.value for scenario in supported)
        raise Refused(f"{type(method).__name__} does not work in scenario {strange[0]}; it works in {works}")

    def concerns(law: str, scenario: Scenario) -> bool:
        match law:
            case "isolated":
                return method.isolates and scenario is not Scenario.NNS  # it needs ids
            case "off":
                return bool(method.off)
            case "alone":
                return not method.pools
        return law not in ONCE or scenario is chosen[0]

    return [(law, scenario) for scenario in chosen for law in LAWS if concerns(law, scenario)]


def check(law: str, case: Case) -> None:
    """One law in one case.

    Raises:
        LawBroken: with the law, the scenario, what was seen and what to do.
    """
    try:
        LAWS[law](case)
    except LawBroken as broken:
        name, where = type(case.method).__name__, "" if law in ONCE else f" in scenario {case.scenario.value}"
        raise LawBroken(f"{name} breaks the law {law!r}{where}: {broken}") from broken.__cause__


def check_method(
    method: Method,
    *,
    scenarios: Iterable[Scenario] | None = None,
    laws: Iterable[str] | None = None,
    net: nn.Module | None = None,
    fit: Fit | None = None,
) -> list[str]:
    """Checks a method against the laws, in every scenario it supports, in seconds.

    Its options stay; its net and fit give way to tiny ones (the optimiser, its momentum, decay, schedule and clipping
    are kept), since the laws bring their own data: bytes of shape (2, 4), two classes a task.

    Args:
        method: an instance: `check_method(EWC(net))`.
        scenarios: some of those it supports; all of them when not given.
        laws: names in `LAWS`; all that concern the method when not given.
        net: a network for such inputs, where the laws' own does not suit the method.
        fit: how to fit it, where the method's options need a certain learning rate or length.

    Returns:
        The names of the laws that were checked.

    Raises:
        LawBroken: a law is broken; the message says which, where, and what to do.
        Refused: a law or scenario is unknown.
    """
    if isinstance(method, type):
        raise Refused(f"{method.__name__} is a class; check a method: check_method({method.__name__}(net))")
    chosen = list(LAWS) if laws is None else list(laws)
    if unknown := [law for law in chosen if law not in LAWS]:
        raise Refused(f"there is no law {unknown[0]!r}; there are {', '.join(LAWS)}")
    todo = [(law, scenario) for law, scenario in cases(method, scenarios) if law in chosen]
    ground = {scenario: Case(method, scenario, net, fit) for _, scenario in todo}
    for law, scenario in todo:
        check(law, ground[scenario])
    return [law for law in LAWS if law in {law for law, _ in todo}]
