"""`perdure advise`: flags, questions and refusals; and the warning before a method runs where it is known to fail."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from perdure.experiments.advice import Needs, advise

ASK = "--store nothing --id known --labels unshared --tasks 3"
TINY_NET = "--net mlp:8 --input 4x4 --examples 20"
FAILS = "perdure: warning: si is known to fail in scenario gnu: "


class Terminal(io.StringIO):
    """Answers typed one after another."""

    def isatty(self) -> bool:
        return True


def test_flags_are_answered_with_methods_bytes_and_reasons(perdure) -> None:
    said = perdure(f"advise {ASK} {TINY_NET}")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith("Scenario gg, task-incremental: the id of the task is given with every question.\n")
    assert "Taken: 2 classes and 20 examples a task, inputs of 4x4, net mlp:8.\n" in said.out
    lines = [line.split() for line in said.out.splitlines()]
    (first,) = [line for line in lines if line[:1] == ["1"]]
    assert (
        first[1] == advise(Needs("nothing", "known", tasks=3, net="mlp:8", input="4x4", examples=20)).advised[0].method
    )
    for words in ("3 tasks", "10 tasks", "100 tasks", "1,000 tasks", "finetune", "joint", "independent"):
        assert words in said.out
    assert "  er, ewc-er, der, " in said.out.partition("Ruled out:")[2]
    assert "keeps examples" in said.out
    assert list(Path().iterdir()) == []


def test_json_says_the_same_and_nothing_else(perdure) -> None:
    said = perdure(f"advise {ASK} {TINY_NET} --bytes 1kB --json")
    assert said.err == ""
    plain = json.loads(said.out)
    needs = Needs("nothing", "known", tasks=3, net="mlp:8", input="4x4", examples=20, bytes=1000)
    assert plain == json.loads(json.dumps(advise(needs).to_json()))
    assert plain["needs"]["bytes"] == 1000
    assert plain["ruled_out"]["ewc"] == "takes more than 1.00 kB after 3 tasks"


def test_class_incrementally_it_says_plainly_who_fails(perdure) -> None:
    said = perdure(f"advise --store nothing --id unknown --labels unshared --tasks 3 {TINY_NET}")
    plain, _, fails = said.out.partition("These run here, and fail:")
    assert "Weight regularisers alone fail class-incrementally" in plain
    assert "  ewc: 19.7 % on split MNIST, where finetune has 20.0 % (perdure reproduce vdv-split)\n" in fails


def test_nothing_suits(perdure) -> None:
    said = perdure(f"advise {ASK} {TINY_NET} --bytes 5B")
    assert said.status == 0
    assert "No method suits: see below what each would need." in said.out
    assert "next:" not in said.out


def test_without_a_terminal_it_says_what_is_missing(perdure) -> None:
    see = "and no terminal to ask on. See: perdure advise --help"
    assert perdure("advise").err == f"perdure: --store, --id, --labels, --tasks missing, {see}\n"
    said = perdure("advise --store nothing --labels shared --json")
    assert (said.status, said.out, said.err) == (2, "", f"perdure: --id, --tasks missing, {see}\n")


def test_on_a_terminal_it_asks_one_question_at_a_time(perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["everything", "nothing", "", "shared", "unknown", "unlike", "none", "0", "4", "much", "10MB"]
    monkeypatch.setattr("sys.stdin", Terminal("\n".join(answers) + "\n"))
    said = perdure("advise")
    assert said.status == 0, said.err
    for wrong in (
        "perdure: --store is 'everything'; it must be examples or nothing\n",
        "perdure: --tasks is 'none'; it must be a whole number\n",
        "perdure: tasks is 0; it must be at least 1\n",
        "perdure: 'much' is no number of bytes; write a number and one of B, kB, ",
    ):
        assert wrong in said.err
    assert "[unknown] " in said.err  # the default, which an empty line takes
    assert said.out.startswith("Scenario nns, task-free")
    assert "4 tasks" in said.out
    assert "tasks that look unlike" in said.out


def test_on_a_terminal_only_what_is_missing_is_asked(perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("6\n"))
    said = perdure(f"advise --store nothing --id known --labels shared {TINY_NET} --json")
    assert said.err == "How many tasks will there be? [10] "
    assert json.loads(said.out)["needs"]["tasks"] == 6


def test_a_terminal_that_says_no_more(perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("nothing\n"))
    said = perdure("advise")
    assert said.status == 2
    assert said.err.endswith("perdure: no answer to --id\n")


MESSAGES = {
    "--store some": "--store is 'some'; it must be examples or nothing",
    "--id maybe": "--id is 'maybe'; it must be known or unknown",
    "--labels mine": "--labels is 'mine'; it must be shared or unshared",
    "--look odd": "--look is 'odd'; it must be alike or unlike",
    "--tasks many": "--tasks is 'many'; it must be a whole number",
    "--tasks 0": "tasks is 0; it must be at least 1",
    "--bytes=-5": "-5 is no number of bytes; write a number and one of B, kB, KB, MB, GB, KiB, MiB, GiB",
    "--input 3x": "input '3x' is no shape; write sizes joined by x, such as 28x28 or 3x32x32",
    "--boundaries unknown": "the id is known when asked, but not where a task ends in training: whoever can name the "
    "task of an input can say which task an example is of; use boundaries known, or id unknown",
    "--byts 5": "unknown option '--byts'; did you mean --bytes? See: perdure advise --help",
    "more": "unrecognized arguments: more. See: perdure advise --help",
}


@pytest.mark.parametrize("words", MESSAGES)
def test_the_message(words: str, perdure) -> None:
    said = perdure(f"advise {ASK} {words}")
    assert (said.status, said.out, said.err) == (2, "", f"perdure: {MESSAGES[words]}\n")


# Warned before it runs


@pytest.mark.usefixtures("no_page")
def test_a_run_is_warned_once_before_it_learns(perdure) -> None:
    said = perdure("run split-digits si --tasks 2 --seeds 2 TINY --json --out out")
    assert said.status == 0
    assert said.err.count("is known to fail") == 1
    assert said.err.splitlines()[0].startswith(FAILS)
    assert "(perdure reproduce vdv-split). What else there is: perdure advise" in said.err.splitlines()[0]
    assert "known to fail" not in said.out


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("words", ["split-digits er", "split-digits rwalk --method.slots 9", "permuted-digits si"])
def test_nobody_else_is_warned(words: str, perdure) -> None:
    assert "known to fail" not in perdure(f"run {words} --tasks 2 TINY").err


@pytest.mark.usefixtures("no_page")
def test_a_smoke_run_is_warned_too(perdure) -> None:
    assert perdure("run split-digits si --smoke").err.count("is known to fail") == 1


def test_a_sweep_is_warned_once_a_method(perdure) -> None:
    Path("two.yaml").write_text(
        "stream: split-digits\ntasks: 2\nnet: mlp:8\nmethods: {finetune: , si: {c: [0.1, 1]}}\n"
        "fit: {steps: 2, batch: 16}\nseeds: 2\n"
    )
    said = perdure("sweep two.yaml --out out --json")
    assert said.status == 0
    assert said.err.count("is known to fail") == 1
    assert said.err.splitlines()[0].startswith(FAILS)
    assert "known to fail" not in said.out


@pytest.mark.parametrize("words", ["--method si", "--method si --ids", "--method er", "--method finetune"])
def test_a_learner_is_warned_when_it_is_made_and_when_it_learns(words: str, perdure) -> None:
    np.savez("a.npz", X=np.arange(120.0).reshape(60, 2) % 7, y=np.arange(60) % 2)
    times = int(words == "--method si")
    made = perdure(f"learner create plants {words} --net mlp:8 --fit.steps 2 --fit.batch 8")
    learned = perdure("learner learn plants a.npz --name a --json")
    assert (made.status, learned.status) == (0, 0)
    for said in (made, learned):
        assert said.err.count(FAILS) == times
        assert "known to fail" not in said.out


def test_show_says_where_a_method_fails(perdure) -> None:
    assert "\nKnown to fail in gnu: 20.0 % on split MNIST, as finetune has " in perdure("show si").out
    assert "Known to fail" not in perdure("show er").out
