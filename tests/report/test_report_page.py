"""The page: well formed, self-contained, honest about what is undefined, and the same for the same results."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from math import nan

import numpy as np
import pytest
from by_hand import forgetful, make
from PIL import Image

from perdure import report
from perdure.methods import METHODS
from perdure.report.page import citation

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Reads a page and checks that its tags are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)

    def all(self, name):
        return [attrs[name] for _, attrs in self.tags if attrs.get(name)]

    @property
    def text(self):
        return " ".join(" ".join(self.said).split())


@pytest.fixture
def written(tmp_path):
    def write(*results):
        return report.write(results, tmp_path / "report.html").read_text(encoding="utf-8")

    return write


def four(seed=0):
    return [
        make(forgetful(5, 0.15), seed=seed),
        make(forgetful(5, 0.03), "ewc", seed=seed, parts={"model": 1000, "precision": 1000, "pull": 1000}),
        make(forgetful(5, 0.0), "packnet", seed=seed, given=forgetful(5, 0.0) + 0.01, growth=50),
        make(forgetful(5, 0.0), "joint", seed=seed, growth=900),
    ]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The page of four methods."""
    return report.write(four(), tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


def test_it_loads_nothing(compared):
    page = Page(compared)
    for address in page.all("src") + page.all("href") + page.all("xlink:href"):
        assert address.startswith(("#", "data:"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\((?!#)|@import", compared)
    assert "default-src 'none'" in compared


def test_every_id_is_its_own_and_every_reference_resolves(compared):
    page = Page(compared)
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    used = [a.removeprefix("#") for a in page.all("href") + page.all("xlink:href") if a.startswith("#")]
    assert used
    assert {*used, *re.findall(r"url\(#(.+?)\)", compared)} <= set(ids)


def test_every_method_is_named_compared_and_cited(compared):
    text = Page(compared).text
    assert "permuted-digits, 5 tasks: finetune, ewc, packnet, joint" in text
    assert "finetune forgot 4 of its 5 tasks, task 1 most: 95.0 % after learning it, 35.0 % at the end;" in text
    assert (
        "packnet lost nothing of what it learned, and ends at 95.0 % on average. With the id given it lost nothing of"
        in text
    )
    for heading in ("Retention, without intransigence", "Transfer", "Expansion, with parameter efficiency", "Time"):
        assert heading in text
    for method in ("finetune", "ewc", "packnet", "joint"):
        assert f"perdure run permuted-digits {method} --seed 0" in text
    assert "McCloskey" in text


def test_seeds_are_counted_and_have_intervals(written):
    text = Page(written(*(make(forgetful(2, s), seed=seed) for seed, s in enumerate((0.1, 0.2, 0.3))))).text
    assert "finetune 3 seeds" in text
    assert "85.0 ± 12.4" in text  # 95 less half of 0.1, 0.2, 0.3; 4.3027 * 0.05 / sqrt(3)
    assert "Seeds 0, 1, 2" in text
    assert "bands span the lowest and the highest of 3 seeds" in text


def test_undefined_figures_and_cells_say_why(written):
    R = [[nan, nan], [0.9, nan], [0.5, 0.9]]
    reasons = {"R[0,1]": "labels unseen", "fwt": "no labels no transfer"}
    text = written(make(R, reasons=reasons, scenario="gnu"))
    assert 'title="no labels no transfer"' in text
    page = Page(text)
    assert "no labels no transfer" in page.text
    assert "Hatched cells are undefined: labels unseen." in page.text
    assert "Scenario gnu, class-incremental" in page.text
    assert "nan" not in page.text


def test_both_matrices_where_the_id_makes_a_difference(written):
    assert "id given" not in Page(written(make())).text
    text = Page(written(make(given=forgetful(3, 0.1)))).text
    assert "id withheld" in text
    assert "ACC, id given" in text
    assert "Dashed: with the id given." in text
    assert "Hatched" not in text


def test_rows_are_ranked_and_tested_and_their_bytes_drawn(written):
    slopes = {"finetune": 0.15, "ewc": 0.03, "er": 0.0, "joint": 0.0}
    text = written(*(make(forgetful(2, s * (1 + seed)), m, seed=seed) for m, s in slopes.items() for seed in range(2)))
    page = Page(text)
    assert re.findall(r'<tr><th class="name" scope="row">(\w+)', text) == ["er", "joint", "ewc", "finetune"]
    assert "ACC against the best" in page.text
    assert "corrected for all 5 pairs by Holm's method." in page.text
    assert "equal at every shared seed, so there is nothing to test" in page.text  # er and joint
    assert "accuracy of all methods against bytes, permuted-digits, 2 tasks, gns" in page.all("aria-label")
    assert "bytes of the state in memory" in page.text
    assert "Bars are 95 % intervals. Dotted: joint and finetune" in page.text


def test_each_stream_has_a_table_of_its_own(written):
    both = [make(forgetful(2), method, options=seed) for method in ("ewc", "er") for seed in ({}, {"stream.side": 3})]
    text = written(*both)
    page = Page(text)
    for heading in ("permuted-digits, 2 tasks, gns", "permuted-digits, 2 tasks, gns, stream.side 3"):
        assert f"<h2>{heading}</h2>" in text
        assert f"<h2>ewc on {heading}</h2>" in text
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert {a.removeprefix("#") for a in page.all("href") if a.startswith("#note")} <= set(ids)
    assert text.count("<thead>\n<tr><td></td>") == 2


def test_a_page_names_the_protocol_that_tuned_a_method(written):
    run = make([[0.1], [0.9]], "ewc")
    run.options["tuning"] = {"protocol": "oracle", "score": 0.5, "chosen": {"method.lam": 10}}
    assert "Options tuned by protocol oracle (ewc)." in Page(written(run)).text


def test_cells_undefined_only_with_the_id_say_why(written):
    given, why = [[0.1, 0.1], [0.9, nan], [0.9, 0.8]], {"R_given[1,2]": "the method does not know it"}
    text = Page(written(make([[0.1, 0.1], [0.9, 0.1], [0.7, 0.6]], given=given, reasons=why))).text
    assert "Hatched cells are undefined: the method does not know it" in text


def test_what_a_user_names_is_escaped(written):
    nasty = '<script>alert("1")</script>&'
    results = [
        make(method=nasty, stream="<b>", parts={nasty: 10}, options={"stream.x": nasty}, reasons={"fwt": nasty}),
        make(method="$x_1$", stream="<b>"),
    ]
    text = written(*results)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "b" not in {tag for tag, _ in page.tags}
    assert page.text.count(nasty) > 5
    assert "$x_1$" in page.text


def test_a_long_stream_says_what_it_leaves_out(written):
    text = Page(written(make(forgetful(40, 0.01)))).text
    assert "Panels: 11 of the 40 tasks, evenly chosen." in text
    assert "The 12 tasks that lost most; 27 lost less." in text


def test_a_thousand_tasks_stay_a_small_page(written):
    assert len(written(make(forgetful(1000, 0.0005)))) < 1_500_000


def test_equal_results_give_equal_bytes(written, compared):
    assert written(*four()) == compared


def test_the_smallest_run(written):
    text = Page(written(make([[0.1], [0.9]], options={}, growth=0, R_given=None, scenario="nns", losses=[[]]))).text
    assert "Scenario nns, task-free" in text
    assert "learned its only task to 90.0 %" in text
    assert "this scenario has no ids" not in text  # a note on a column that is not shown


def test_a_result_without_options(written):
    assert "finetune, seed 0" in Page(written(replace(make(), options={}))).text


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_reference(method):
    found = citation(method)
    assert found
    assert re.search(r"(19|20)\d\d", found)
    assert "Deviations" not in found


def test_a_method_of_the_users_has_none():
    assert citation("mine.py:Mine") is None


def chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="there is no chromium on this machine")
def test_a_browser_draws_it(tmp_path):
    page = report.write([run for seed in range(2) for run in four(seed)], tmp_path / "report.html")
    picture = tmp_path / "page.png"
    quiet = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
    command = [
        str(chromium()),
        "--headless",
        *(f"--{word}" for word in f"{quiet} disable-sync hide-scrollbars".split()),
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,1600", f"--screenshot={picture}"]
    subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(picture) as image:
        assert image.size == (1200, 1600)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}
    assert len(colours) > 100
    assert (pixels == 255).all(axis=1).mean() > 0.5  # a white page ...
    assert (pixels < 128).all(axis=1).mean() > 0.005  # ... with text on it
    assert {(0, 114, 178), (213, 94, 0), (0, 158, 115)} <= colours  # and the curves of the methods
