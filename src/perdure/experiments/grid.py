"""What a sweep file means: every run of methods x options x seeds x orders, planned before any of them begins.

An option is a value or a list of values. What is for one method only stands under that method. Seeds and orders (a
stream seed each) repeat a combination of options, they do not make another. With `tuning`, the combinations of each
method are first tried on training examples that are held out from learning, and only the best is run and examined.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import count, product
from pathlib import Path
from typing import Any, NamedTuple

from perdure.contract import Refused, unknown
from perdure.experiments import presets
from perdure.experiments.experiment import GENERAL, Experiment, plan
from perdure.options import FIT, described, method_class, of_method

FOLDER = Path(str(resources.files("perdure.experiments"))) / "sweeps"
KEYS = ("stream", "methods", "seeds", "orders", "tuning", "preset")  # of a file, beside the options
AWAY = 1000  # the seed of `oracle` when none is given, far from those of the reported runs


class Tuning(NamedTuple):
    """How options are chosen: by the mean ACC on a share of the training examples, held out from learning.

    oracle: on whole streams of other seeds than the reported ones; it knows what all tasks will be like.
    first-K: on the first K tasks of the reported streams, after which all of them are learned from a fresh start.
    (A. Chaudhry et al., "Efficient lifelong learning with A-GEM", 2019, arXiv 1812.00420, chose on the first 3 tasks,
    and reported on the others.)
    """

    protocol: str
    seeds: tuple[int, ...]
    share: float = 0.1

    @property
    def first(self) -> int | None:
        """How many tasks are looked at; all when None."""
        return None if self.protocol == "oracle" else int(self.protocol.removeprefix("first-"))


class Run(NamedTuple):
    """One run of a sweep."""

    name: str  # "ewc,lam=10,seed=0", also of its folder
    combination: str  # "ewc,lam=10": what seeds and orders repeat
    role: str  # "run", or "tuning": scored on held-out examples
    experiment: Experiment
    listed: dict[str, Any]  # the options that the file lists, as this run has them


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep file.

    Args:
        runs: every combination on every seed and order. With tuning, only those of chosen combinations are run.
        trials: what tuning chooses by; none for a method with one combination.
    """

    runs: tuple[Run, ...]
    trials: tuple[Run, ...] = ()
    tuning: Tuning | None = None


def shipped() -> list[str]:
    """The names of the sweeps in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def file_of(name: str) -> Path:
    """The file of a sweep: a path that ends in .yaml, or the name of one in the package.

    Raises:
        Refused: there is none of that name; the nearest is named.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if name not in shipped():
        raise unknown("sweep", name, shipped(), f"Name a FILE.yaml or one of: {', '.join(shipped())}")
    return FOLDER / f"{name}.yaml"


def read(path: Path, smoke: bool = False) -> Sweep:
    """The sweep that a file means.

    Args:
        smoke: make every run a small one.

    Raises:
        Refused: the file cannot be read, a key, method or option is unknown (the nearest is named), or a value is of
            the wrong kind.
    """
    content = presets.opened(path)
    for key, such in (("stream", "stream: permuted-digits"), ("methods", "methods: [finetune, ewc]")):
        if key not in content:
            raise Refused(f"{path} has no {key}; give them, as in {such}")
    stream, methods = str(content["stream"]), _methods(path, content["methods"])
    common = presets.named(path, {key: value for key, value in content.items() if key not in KEYS})
    _check_names(common, methods)
    seeds = _numbers("seeds", content.get("seeds", 1))
    orders = _numbers("orders", content["orders"]) if "orders" in content else (None,)
    tuning = _tuning(path, content.get("tuning"), stream, seeds, orders)
    names = _named(methods)
    preset, runs, trials = content.get("preset"), list[Run](), list[Run]()
    for method, own in methods.items():
        values = {"threads": 1, "smoke": smoke} | presets.layered(own, common)
        lists = {name: value for name, value in values.items() if isinstance(value, list)}
        _check_lists(f"{path}, {method}", lists, "orders" in content and "stream.seed" in values, tuning is not None)
        points = [dict(zip(lists, point, strict=True)) for point in product(*lists.values())]
        for point in points:
            try:
                experiment = plan(stream, method, values | point, preset)
            except Refused as error:
                raise Refused(f"{path}, {method}: {error}") from None
            listed = {name: _value(experiment, name) for name in lists}
            words = [f"{name.removeprefix('method.')}={_word(value)}" for name, value in listed.items()]
            combination = ",".join([names[method], *words])
            for seed, order in product(seeds, orders):
                runs.append(_placed(Run("", combination, "run", experiment, listed), seed, order))
            if tuning is not None and len(points) > 1:
                trial = replace(experiment, first=tuning.first, hold_out=tuning.share)
                for seed, order in _tried(tuning, orders):
                    trials.append(_placed(Run("tuning,", combination, "tuning", trial, listed), seed, order))
    planned = [run.name for run in (*runs, *trials)]
    if twins := [name for place, name in enumerate(planned) if name in planned[:place]]:
        raise Refused(f"{path} has two runs {twins[0]}; list every value once")
    if tuning is not None:
        _check_apart(tuning, runs)
    return Sweep(tuple(runs), tuple(trials), tuning)


def _named(methods: Iterable[str]) -> dict[str, str]:
    """What each method is called in the names of runs: by its class alone, unless another has the same."""
    short = {method: re.sub(r".*[:/]", "", method) for method in methods}
    taken = [*short.values()]
    return {method: name if taken.count(name) == 1 else _word(method) for method, name in short.items()}


def _methods(path: Path, content: Any) -> dict[str, dict[str, Any]]:
    """The options of each method, by their full names."""
    if isinstance(content, str):
        content = [content]
    if isinstance(content, list):
        content = dict.fromkeys(map(str, content))
    general, methods = _general(), {}
    for method, own in presets.section(path, "methods", content).items():
        options = presets.named(path, presets.section(path, f"methods.{method}", own))
        methods[method] = {
            name if "." in name or name in general else f"method.{name}": value for name, value in options.items()
        }
        known = [option.name for part in (FIT, of_method(method_class(method))) for option in described(part)]
        for name in methods[method]:
            if name not in (*general, *known) and not name.startswith("stream."):
                raise unknown(f"option of {method}", name, [*known, *general])
    if not methods:
        raise Refused(f"{path} names no methods; give some, as in methods: [finetune, ewc]")
    return methods


def _general() -> list[str]:
    """The names of the options without a dot that a run of a sweep may have."""
    names = [option.name for part in GENERAL for option in described(part)]
    return [name for name in names if name not in ("seed", "seeds")]


def _check_names(common: Mapping[str, Any], methods: Mapping[str, Any]) -> None:
    general = _general()
    for name in common:
        if "." not in name and name not in general:
            raise unknown("key", name, [*KEYS, *general])
        if name.startswith("method.") and len(methods) > 1:
            raise Refused(f"{name} is for one method; say it under that method, as in methods: {{ewc: {{lam: 10}}}}")


def _check_lists(where: str, lists: Mapping[str, list[Any]], twice: bool, tuned: bool) -> None:
    """Refuses lists that say nothing, or what orders say; `twice`: there is a seed of the stream beside orders."""
    if empty := [name for name, values in lists.items() if not values]:
        raise Refused(f"{where}: {empty[0]} is a list of no values; give it one, or leave it out")
    if twice or "stream.seed" in lists:
        raise Refused(
            "several seeds of the stream are its orders, which repeat a run; give orders: alone, as in [0, 1]"
        )
    if tuned and (wrong := [name for name in lists if not name.startswith(("fit.", "method."))]):
        raise Refused(f"{wrong[0]} is a list, but tuning chooses among options of fit and method; give one value")


def _numbers(name: str, content: Any) -> tuple[Any, ...]:
    """Seeds: a list of them, or how many."""
    numbers = range(content) if isinstance(content, int) and not isinstance(content, bool) else content
    if not isinstance(numbers, list | range) or not all(type(number) is int for number in numbers):
        raise Refused(f"{name} is {content!r}; give a list of whole numbers, or how many")
    if not numbers:
        raise Refused(f"{name} is {content!r}; there must be at least one")
    return tuple(numbers)


def _tuning(
    path: Path, content: Any, stream: str, seeds: tuple[int, ...], orders: tuple[int | None, ...]
) -> Tuning | None:
    """The tuning that a file asks for, checked but for its seeds."""
    if content is None:
        return None
    asked = presets.section(path, "tuning", content)
    for name in asked:
        if name not in Tuning._fields:
            raise unknown("key of tuning", name, Tuning._fields)
    protocol = str(asked.get("protocol", "oracle"))
    if protocol != "oracle" and not re.fullmatch(r"first-[1-9]\d*", protocol):
        raise Refused(f"tuning.protocol is {protocol!r}; it must be oracle or first-K, such as first-3")
    oracle = protocol == "oracle"
    tuning = Tuning(protocol, _numbers("tuning.seeds", asked.get("seeds", [AWAY] if oracle else [seeds[0]])))
    if stream.endswith(".npz") and (oracle or len(orders) > 1):
        raise Refused(
            f"another seed of {stream} has the same tasks and only asks other examples, so tuning would look at "
            "exams; use tuning.protocol first-K and one order"
        )
    share = asked.get("share", tuning.share)
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise Refused(f"tuning.share is {share!r}; it must be between 0 and 1")
    return tuning._replace(share=float(share))


def _check_apart(tuning: Tuning, runs: Sequence[Run]) -> None:
    """Refuses to tune by `oracle` on a seed, of the learner or the stream, of a run that is reported."""
    reported = {seed for run in runs for seed in (*run.experiment.seeds, run.experiment.options.get("stream.seed", 0))}
    shared = reported & {*tuning.seeds}
    if tuning.first is None and shared:
        free = next(seed for seed in count(AWAY) if seed not in reported)
        raise Refused(f"tuning.seeds has {min(shared)}, which is reported on; oracle needs other seeds, such as {free}")


def _tried(tuning: Tuning, orders: tuple[int | None, ...]) -> Iterator[tuple[int, int | None]]:
    """The seeds, of learner and stream, that tuning tries a combination on."""
    for seed in tuning.seeds:
        yield from [(seed, seed)] if tuning.first is None else [(seed, order) for order in orders]


def _placed(run: Run, seed: int, order: int | None) -> Run:
    """A run on one seed of the learner and one of the stream, named after them."""
    options = run.experiment.options | ({} if order is None else {"stream.seed": order})
    name = f"{run.name}{run.combination},seed={seed}" + ("" if order is None else f",order={order}")
    return run._replace(name=name, experiment=replace(run.experiment, seeds=(seed,), options=options))


def _value(experiment: Experiment, name: str) -> Any:
    known = vars(experiment) | vars(experiment.setting) | experiment.options
    return known[name]


def _word(value: Any) -> str:
    """A value in the name of a folder."""
    return f"{value:g}" if isinstance(value, float) else re.sub(r"[^\w.+-]+", "_", str(value))
