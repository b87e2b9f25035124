"""An experiment: a stream, a method and their options, as plain data and as a command line."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from perdure.contract import Refused, unknown
from perdure.experiments import presets
from perdure.fold import Setting
from perdure.options import FIT, Part, described, flag, method_class, of_method, of_stream, typed
from perdure.result import read_kept

NET = "mlp:400-400"
WORDS = ("stream", "method")  # of the command, beside its options
APART = (*WORDS, "options", "setting", "seeds")  # of an experiment, which are written in ways of their own


@dataclass(frozen=True)
class Experiment:
    """What to run, as plain data. `options` are the dotted ones: {"fit.lr": 0.1, "method.lam": 10.0, "stream.seed": 3}.

    Args:
        stream: KIND-BASE ("permuted-mnist"), or a file of arrays ("my.npz").
        method: a name, or FILE.py:CLASS.
        tasks: how many tasks; the stream's own number when not given.
        examples_per_task: learn only so many of a task's examples, drawn by key; exams stay whole.
        scenario: gg, gns, gnu, nns (or task, domain, class, free); the stream's own when not given.
        seeds: of the learner; a run each.
        net: mlp:400-400, dropout-mlp:400-400, bn-mlp:400-400, conv:16-32, resnet18:20, resnet50:64, or linear.
        data_root: where data sets are looked for first.
        first: only the first so many tasks of the stream.
        hold_out: a share of every task's examples (0 to 1), kept from learning and asked instead of the exams: what
            options are chosen by.
        smoke: two small tasks and a few steps, to see in seconds that everything runs.
        setting: how it is carried out.
    """

    stream: str
    method: str
    tasks: int | None = None
    examples_per_task: int | None = None
    scenario: str | None = None
    seeds: tuple[int, ...] = (0,)
    net: str = NET
    data_root: str | None = None
    first: int | None = None
    hold_out: float | None = None
    smoke: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    setting: Setting = Setting()

    def __post_init__(self) -> None:
        if not self.seeds:
            raise Refused("there must be at least one seed")
        for name in ("tasks", "examples_per_task", "first"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise Refused(f"{name} is {value}; it must be at least 1")
        for option in self.options:
            if option.partition(".")[0] not in ("fit", "method", "stream"):
                raise unknown("option", option, ["fit.", "method.", "stream."])


def seeds_of(seed: int | None = None, seeds: int | None = None) -> tuple[int, ...]:
    """The seeds of the learner.

    Args:
        seed: of the learner: start values, order, noise; 0 when not given. The stream has its own (stream.seed).
        seeds: run so many seeds, 0, 1, 2, ..., and show the spread.

    Raises:
        Refused: both are given.
    """
    if seed is not None and seeds is not None:
        raise Refused(f"seed {seed} and seeds {seeds} are both given: seed S runs that one, seeds N runs 0 to N-1")
    return (seed or 0,) if seeds is None else tuple(range(seeds))


GENERAL = (
    Part("", Experiment, ("stream", "method", "seeds", "options", "setting")),
    Part("", seeds_of),
    Part("", Setting),
)


def plan(
    stream: str, method: str, given: Mapping[str, Any], preset: str | None = None, config: str | Path | None = None
) -> Experiment:
    """The experiment that options mean, by name: {"tasks": 3, "fit.lr": 0.1}; strings are parsed.

    What is given beats the file `config` (YAML, the same names), which beats the preset, which beats the defaults.

    Raises:
        Refused: an unknown stream, method, preset or option (the nearest is named), or a value of the wrong type.
    """
    parts = (*GENERAL, FIT, of_method(method_class(method)), of_stream(stream))
    options = presets.gathered(given, preset, config, method)
    known = [option.name for part in parts for option in described(part)]
    for name in options:
        if name not in known:
            refused = unknown("option", flag(name), map(flag, known), f"See: perdure run {stream} {method} --help")
            if name in given:
                raise refused
            words = f"{name} is no option of a file: it is a word of the command" if name in WORDS else refused
            raise Refused(f"{config or preset}: {words}")
    general, seeds, setting = (typed(part, options) for part in GENERAL)
    dotted = {part.prefix + name: value for part in parts[3:] for name, value in typed(part, options).items()}
    return Experiment(stream, method, **general, seeds=seeds_of(**seeds), options=dotted, setting=Setting(**setting))


def own_net(net: nn.Module) -> str:
    """What a net of the user's own is called: its class, and a hash of its layers and the shapes of its tensors."""
    shapes = [(name, None if is_lazy(tensor) else tuple(tensor.shape)) for name, tensor in net.state_dict().items()]
    return f"{type(net).__name__}@{hashlib.sha256(f'{net!r} {shapes}'.encode()).hexdigest()[:8]}"


def is_own(net: str) -> bool:
    """Whether that is the name of a net of the user's own."""
    return "@" in net


def command(experiment: Experiment) -> str:
    """The command line that runs an experiment; for a net of the user's own, the call of Python."""
    if is_own(experiment.net):
        return _call(experiment)
    words = ["perdure", "run", experiment.stream, experiment.method]
    for name, value in _given(experiment).items():
        words += [flag(name)] if value is True else [flag(name), str(value)]
    for name, value in experiment.options.items():
        words += [flag(name), _word(value)]
    return shlex.join(words)


def _call(experiment: Experiment) -> str:
    """The call of `perdure.run` that runs an experiment on a net of the user's own."""
    given = {**_given(experiment), **({"options": experiment.options} if experiment.options else {})}
    words = [f"{name}={value!r}" for name, value in given.items() if name != "net"]
    return f"perdure.run({', '.join([repr(experiment.stream), repr(experiment.method), 'net=net', *words])})"


def _given(experiment: Experiment) -> dict[str, Any]:
    """The options without a dot that are not as they ship, by name, seeds last."""
    plain, seeds = asdict(experiment) | asdict(experiment.setting), experiment.seeds
    told = [item for item in (*fields(Experiment), *fields(Setting)) if item.name not in APART]
    given = {item.name: plain[item.name] for item in told if plain[item.name] != item.default}
    return given | ({"seeds": len(seeds)} if len(seeds) > 1 else {"seed": seeds[0]} if seeds != (0,) else {})


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def recorded(folder: Path) -> Experiment:
    """The experiment of a run folder."""
    plain = read_kept(folder, "experiment.json")["experiment"]
    try:
        return Experiment(**{**plain, "seeds": tuple(plain["seeds"]), "setting": Setting(**plain["setting"])})
    except (KeyError, TypeError) as error:
        raise Refused(f"{folder / 'experiment.json'} is damaged: {error}") from error
