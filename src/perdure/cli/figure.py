"""Draw a figure that lectures teach with, from stored or fresh runs.

Says what there is to see in it, and whether the numbers show it.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from perdure import report
from perdure.cli.parser import Parser
from perdure.experiments import figures
from perdure.experiments.figures.lab import Lab
from perdure.fold import Moment


def main(words: list[str]) -> int:
    """Carries out the verb."""
    usage = "perdure figure NAME [--base BASE] [--out FILE] [--rerun] [--smoke]\n       perdure figure --page FILE"
    parser = Parser("figure", usage, f"Draws a figure that lectures teach with: {', '.join(figures.FIGURES)}.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="which figure")
    parser.add_argument("--base", metavar="BASE", help="on which images it is measured (default: the figure's own)")
    parser.add_argument("--data-root", metavar="DIR", help="where they are looked for first")
    parser.add_argument("--out", metavar="FILE", help="the picture, .svg, .png or .pdf (default: NAME.svg)")
    parser.add_argument("--rerun", action="store_true", help="measure again, though there are stored numbers")
    parser.add_argument("--smoke", action="store_true", help="only try whether it works: tiny runs, nothing is stored")
    parser.add_argument("--page", metavar="FILE", help="write the page about all figures, its pictures beside it")
    given = parser.read(words)
    if "page" in given:
        write_page(Path(given["page"]))
        return 0
    if "name" not in given:
        parser.error(f"name a figure: {', '.join(figures.FIGURES)}")
    name, smoke = given["name"], "smoke" in given
    made = figures.module(name)
    base = given.get("base", figures.base_of(name))
    path = Path(given.get("out", f"{name}.svg"))
    report.check_picture(path)
    console = Console(highlight=False, soft_wrap=True)
    entry = None if smoke or "rerun" in given else figures.stored(name, base)
    if entry is None:
        aside = Console(stderr=True, highlight=False, soft_wrap=True)
        aside.print(f"measuring {name} on {base}: {'seconds' if smoke else figures.how_long(name, base)}")
        with aside.status(name) as status:

            def watch(run: str, moment: Moment) -> None:
                status.update(run)

            lab = Lab(base, given.get("data_root"), smoke, watch)
            entry = figures.measured(name, lab)
        if not smoke:
            console.print(f"numbers: {figures.keep(entry)}", markup=False)
    figures.save(figures.drawn(name, entry["numbers"]), path)
    console.print(f"[bold]{made.title(entry['numbers'])}[/]")
    for claim, holds, says in [] if smoke else figures.findings(name, entry["numbers"]):
        console.print(f"  {'seen' if holds else 'NOT SEEN'}: {claim} ({says})", markup=False)
    if smoke:
        console.print("  a smoke test: what it shows means nothing", markup=False)
    console.print(f"figure: {path}", markup=False)
    return 0


def write_page(page: Path) -> None:
    """The page about all figures, and a folder of pictures beside it."""
    for entry in figures.all_stored():
        name, base = entry["figure"], entry["base"]
        figures.save(figures.drawn(name, entry["numbers"]), page.parent / "figures" / f"{figures.stem(name, base)}.svg")
    page.write_text(figures.page())
