"""Tuned options as a preset: what a sweep chose for each method, with the sweep that chose it."""

from __future__ import annotations

from dataclasses import fields
from textwrap import wrap
from typing import Any

import yaml

from perdure.contract import Refused
from perdure.experiments import provenance
from perdure.experiments.experiment import Experiment
from perdure.experiments.grid import Run, Sweep
from perdure.experiments.sweep import Choice
from perdure.fold import Setting

# What a preset does not say: whose it is, where and on which seeds it runs.
CIRCUMSTANCES = ("stream", "method", "seeds", "data_root", "device", "threads", "smoke", "stream.seed")


def preset(sweep: Sweep, choices: dict[str, Choice], scores: dict[str, float], command: str) -> str:
    """A preset (YAML) of chosen options: those that all methods share, and each method's own.

    Args:
        choices: by method, as `sweep.carry_out` returns them.
        scores: of every combination.
        command: of the sweep.

    Raises:
        Refused: nothing was tuned.
    """
    if sweep.tuning is None:
        raise Refused("a preset holds options that were chosen on held-out examples; give the sweep a tuning: section")
    chosen = {run.experiment.method: run for run in reversed(sweep.runs) if _taken(run, choices, scores)}
    chosen = {
        method: chosen[method] for method in dict.fromkeys(r.experiment.method for r in sweep.runs) if method in chosen
    }
    if not chosen:
        raise Refused("tuning chose nothing, since every trial failed; see the messages in the ledger")
    options = {method: _options(run.experiment) for method, run in chosen.items()}
    first = next(iter(options.values()))
    shared = {name: value for name, value in first.items() if all(o.get(name, ...) == value for o in options.values())}
    own = {
        method: _nested({name: value for name, value in mine.items() if name not in shared})
        for method, mine in options.items()
    }
    content = _nested(shared) | {"methods": own}
    return "\n".join([*_header(sweep, chosen, scores, command), "", yaml.safe_dump(content, sort_keys=False)])


def _taken(run: Run, choices: dict[str, Choice], scores: dict[str, float]) -> bool:
    """Whether a run is of the combination that its method goes with."""
    choice = choices.get(run.experiment.method)
    return run.combination not in scores if choice is None else run.combination == choice.combination


def _options(experiment: Experiment) -> dict[str, Any]:
    """The options that differ from the defaults, and all dotted ones that were given."""
    plain = vars(experiment) | vars(experiment.setting)
    general = {
        item.name: plain[item.name]
        for item in (*fields(Experiment), *fields(Setting))
        if item.name not in ("options", "setting") and plain[item.name] != item.default
    }
    return {name: value for name, value in (general | experiment.options).items() if name not in CIRCUMSTANCES}


def _nested(options: dict[str, Any]) -> dict[str, Any]:
    """{"fit.lr": 0.1} as {"fit": {"lr": 0.1}}, as a file is read best."""
    out: dict[str, Any] = {}
    for name, value in options.items():
        section, dot, rest = name.partition(".")
        if dot:
            out.setdefault(section, {})[rest] = value
        else:
            out[name] = value
    return out


def _header(sweep: Sweep, chosen: dict[str, Run], scores: dict[str, float], command: str) -> list[str]:
    tuning, run = sweep.tuning, next(iter(chosen.values()))
    assert tuning is not None
    looked = "whole streams of other seeds" if tuning.first is None else f"the first {tuning.first} tasks"
    seeds = ", ".join(map(str, tuning.seeds))
    about = (
        f"Tuned for {run.experiment.stream}: {', '.join(chosen)}. Protocol {tuning.protocol}: chosen by the mean ACC "
        f"on {100 * tuning.share:g} % of the training examples, held out from learning, of {looked}, seed {seeds}."
    )
    lines = [
        *wrap(about, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False),
        "",
        f"# By {command}",
        f"# at commit {provenance.commit()} on {provenance.today()}. The score of every combination, in %:",
    ]
    width = max(map(len, scores), default=0)
    return lines + [f"#   {name:<{width}}  {100 * score:.1f}" for name, score in scores.items()]
