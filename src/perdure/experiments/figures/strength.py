"""The strength of a penalty: too weak forgets, too strong cannot learn.

EWC and L2 hold old weights with a strength lam. Forgetting is the mean drop from each task's best accuracy,
intransigence how far below a network trained jointly a new task is learned. As lam grows the one falls and the other
rises; a good method has a wide valley between.

Source: A. Chaudhry et al., "Riemannian walk for incremental learning", 2018, arXiv 1801.10112 (the two measures).
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from perdure.experiments.figures.lab import FIT, HEIGHT, SPREAD, WIDTH, Finding, Lab, Numbers, band, headed, note, plain
from perdure.report.figures import FAINT, HUES
from perdure.result import Result

TASKS, SEEDS, NET = 5, 3, "mlp:200"
LAMS = {"ewc": range(-1, 6), "l2": range(-5, 2)}  # powers of ten
FREE = {"ewc": (-1, "right", 8), "l2": (0, "left", -14)}  # where there is room to name forgetting
TITLES = {"ewc": "EWC: held by the Fisher", "l2": "L2: held all alike"}


def _intransigence(joint: Result, result: Result) -> float:
    return float((np.diagonal(joint.R, -1) - np.diagonal(result.R, -1)).mean())


def measure(lab: Lab) -> Numbers:
    """Forgetting and intransigence of EWC and L2 over strengths, each seed a stream of its own."""
    seeds, tasks = range(lab.unless_smoke(SEEDS, 1)), lab.unless_smoke(TASKS, 2)

    def run(method: str, seed: int, **options: float) -> Result:
        return lab.run("permuted", method, FIT | options, tasks=tasks, net=NET, seed=seed)

    joint = [run("joint", seed) for seed in seeds]
    free = [run("finetune", seed) for seed in seeds]
    numbers: Numbers = {"tasks": tasks, "net": NET, "fit": FIT, "finetune": plain([[r.forgetting for r in free]])[0]}
    for method, powers in LAMS.items():
        lams = [10.0**power for power in lab.unless_smoke(powers, powers[:2])]
        runs = [[run(method, seed, **{"method.lam": lam}) for lam in lams] for seed in seeds]
        numbers[method] = {
            "lam": lams,
            "forgetting": plain([[r.forgetting for r in row] for row in runs]),
            "intransigence": plain([[_intransigence(joint[s], r) for r in row] for s, row in enumerate(runs)]),
            "acc": plain([[r.acc for r in row] for row in runs]),
        }
    return numbers


def _best(numbers: Numbers, method: str) -> tuple[float, float]:
    """The strength of highest mean ACC, and that ACC."""
    acc = np.mean(numbers[method]["acc"], axis=0)
    return numbers[method]["lam"][int(acc.argmax())], float(acc.max())


def title(numbers: Numbers) -> str:
    """The finding."""
    if all(finding.holds for finding in findings(numbers)[:2]):
        return "A penalty trades forgetting for intransigence"
    return "Forgetting and intransigence against the strength of a penalty"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    found = []
    for what, rises in (("forgetting", False), ("intransigence", True)):
        ends = {m: np.mean(numbers[m][what], axis=0)[[0, -1]] for m in LAMS}
        found.append(
            Finding(
                f"{what} {'rises' if rises else 'falls'} from the weakest strength to the strongest",
                all((last > first) == rises for first, last in ends.values()),
                "; ".join(f"{m} {100 * a:.1f} to {100 * b:.1f} points" for m, (a, b) in ends.items()),
            )
        )
    best = {m: _best(numbers, m) for m in LAMS}
    found.append(
        Finding(
            "at its best strength EWC is more accurate than L2 at its own: the Fisher knows which weights matter",
            best["ewc"][1] > best["l2"][1],
            "; ".join(f"{m} ACC {100 * acc:.1f} % at lam {lam:g}" for m, (lam, acc) in best.items()),
        )
    )
    return found


def draw(numbers: Numbers) -> Figure:
    """A panel a method: both measures against lam."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    free = 100 * float(np.mean(numbers["finetune"]))
    for axes, method in zip(panels, LAMS, strict=True):
        lams = numbers[method]["lam"]
        labels = {"forgetting": (HUES[1], *FREE[method]), "intransigence": (HUES[0], -1, "right", 7)}
        for what, (hue, end, side, shift) in labels.items():
            mean = band(axes, lams, 100 * np.array(numbers[method][what]), hue)
            note(axes, what, (lams[end], mean[end]), (0, shift), hue, side)
        lam, acc = _best(numbers, method)
        axes.axvline(lam, color=FAINT, lw=0.8, ls=(0, (1, 2)), zorder=0)
        side = "left" if lam <= lams[len(lams) // 2] else "right"
        axes.text(lam, 0.93, f" best: ACC {100 * acc:.0f} % ", transform=axes.get_xaxis_transform(), ha=side)
        axes.axhline(free, color=FAINT, lw=0.8, ls=(0, (4, 3)), zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(lams[::2]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda lam, _: np.format_float_positional(lam, trim="-")))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(TITLES[method])
        axes.set_xlabel("strength λ")
    panels[0].set_ylim(top=1.12 * panels[0].get_ylim()[1])
    note(panels[0], "forgetting without a penalty", (numbers["ewc"]["lam"][0], free), (0, 7), "#5f5f5f")
    panels[0].set_ylabel("points of accuracy")
    headed(figure, title(numbers), f"{numbers['tasks']} tasks of permuted pixels, 200 hidden neurons; {SPREAD}")
    return figure
