"""Four tasks that have nothing in common, and one learner for all of them: `python examples/own_data.py`.

Digits, wine and breast cancer come with scikit-learn; the fourth is a folder of images that is drawn here. The learner
stays in runs/own-data/learner, to be looked at with `perdure learner history` and the like. docs/own-data.md explains.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from perdure import Learner

OUT = Path("runs/own-data")
SHAPES = {"circle": 40, "square": 4, "triangle": 3}  # how many corners each is drawn with
Asked = tuple[Any, np.ndarray]  # inputs that were never learned, and their labels


def table(name: str, bunch: Any) -> tuple[Any, Asked]:
    """What is learned of a data set, and the fifth of it that is asked."""
    labels = np.array([f"{name} {label}" for label in bunch.target_names[bunch.target]])
    asked, learned = np.split(np.random.default_rng(0).permutation(len(labels)), [len(labels) // 5])
    x = bunch.data
    if name != "digits":  # each column has a unit of its own
        x = (x - x[learned].mean(0)) / x[learned].std(0)
    return (x[learned], labels[learned]), (x[asked], labels[asked])


def draw(folder: Path, count: int, seed: int) -> Path:
    """A folder with so many images of each shape, in noise, each shape in a sub-folder of its own."""
    rng = np.random.default_rng(seed)
    for shape, corners in SHAPES.items():
        (folder / shape).mkdir(parents=True)
        for number in range(count):
            image = Image.fromarray(rng.integers(0, 160, (32, 32, 3), dtype=np.uint8))
            x, y, radius, *colour = rng.integers((14, 14, 10, *[160] * 3), (19, 19, 13, *[256] * 3)).tolist()
            ImageDraw.Draw(image).regular_polygon((x, y, radius), corners, fill=tuple(colour))
            image.save(folder / shape / f"{number:02}.png")
    return folder


def main() -> None:
    """Teaches a learner one task after another, asks it about all of them, checks it, and goes back and forth."""
    console = Console(highlight=False, soft_wrap=True)
    shutil.rmtree(OUT, ignore_errors=True)  # of an earlier walk-through
    images, others = draw(OUT / "shapes", 30, 0), draw(OUT / "more-shapes", 10, 1)
    lessons: dict[str, tuple[Any, Asked]] = {
        "digits": table("digits", load_digits()),
        "wine": table("wine", load_wine()),
        "cancer": table("cancer", load_breast_cancer()),
        "shapes": (images, (others, np.repeat(list(SHAPES), 10))),
    }
    learner = Learner.create(OUT / "learner", size=16, byte_budget="16MB", options={"fit.steps": 300})

    console.print("learned, one after the other:")
    seconds = []
    for name, (data, _) in lessons.items():
        report = learner.learn(data, name)
        seconds.append(report.seconds)
        console.print(
            f"  {name}: {report.examples} examples in {report.seconds['learn']:.1f} s, {report.accuracy:.1%} on its "
            f"exam of {report.asked}, {report.verdict}; {report.nbytes:,} bytes"
        )
    most, whole = max(spent["rest"] for spent in seconds), sum(sum(spent.values()) for spent in seconds)
    console.print(f"  in all {whole:.1f} s, of which at most {most:.2f} s a task went neither to learning nor to exams")

    console.print("\nasked about data never seen, without saying of which task it is:")
    for name, (_, (x, y)) in lessons.items():
        said = learner.explain(x)
        console.print(
            f"  {name}: {(said.labels == y).mean():.1%} right, {(said.tasks == name).mean():.1%} taken for {name}, "
            f"{said.fits.mean():.1%} look like what was learned; the first is {said.labels[0]} "
            f"(sure to {said.confidence[0]:.2f})"
        )

    found = learner.check()
    console.print(f"\nchecked: {len(found.problems)} problems, {len(found.tasks)} exams answered as they were")

    def answers() -> list[bytes]:
        return [part.tobytes() for name in ("digits", "cancer") for part in learner.explain(lessons[name][1][0])]

    now, newest = answers(), learner.history()[0].number
    learner.rollback(1)
    console.print(f"rolled back to entry 1: knows {', '.join(learner.tasks)}")
    learner.rollback(newest)
    console.print(f"and to entry {newest} again: knows {', '.join(learner.tasks)}; same bits: {answers() == now}")
    learner.forget("wine", purge=True)
    console.print(f"wine forgotten: knows {', '.join(learner.tasks)}; same bits: {answers() == now}")
    console.print(f"\nthe learner: {learner.folder}, {learner.nbytes:,} bytes in all", markup=False)


if __name__ == "__main__":
    main()
