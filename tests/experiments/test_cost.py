"""The cost of a run: what is measured is multiplied rightly, and what is tried is small."""

from math import isnan, nan

import pytest

import perdure
from perdure.contract import Refused
from perdure.experiments import Experiment, cost, execute
from perdure.experiments.cost import Speed, spoken, steps, total
from perdure.experiments.execution import prepare
from perdure.experiments.experiment import command
from perdure.fold import Setting

SMALL = {"fit.steps": 20, "fit.batch": 32}


def test_tasks_times_steps_times_speed() -> None:
    assert total(Speed(step=0.5, first=1, second=1, example=0.01), [10, 20, 30], exams=100) == 0.5 * 60 + 1


def test_a_method_that_learns_all_again_takes_longer_with_every_task() -> None:
    # joint: as many times the steps of a task as there are tasks so far
    assert total(Speed(0.1, first=1, second=2, example=0), [10] * 4, 0) == pytest.approx(0.1 * 10 * (1 + 2 + 3 + 4))


def test_a_fresh_network_for_every_task_takes_as_long_as_the_first_task_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speed = Speed(0.1, first=1, second=2, example=0)
    assert total(speed, [10] * 4, 0, fresh=True) == pytest.approx(0.1 * 10 * (1 + 2 + 3 + 4 + 4 * 1))
    monkeypatch.setattr(cost._Trial, "speed", lambda *_: Speed(0.5, 1, 1, 0))
    kind = prepare(Experiment("permuted-digits", "finetune", tasks=2, net="linear", options=SMALL))
    assert cost.estimate(*kind, Setting(fresh=True)) == 2 * cost.estimate(*kind, Setting()) == 2 * 2 * 20 * 0.5


@pytest.mark.parametrize(("method", "more"), [("finetune", 1), ("joint", 2)])
@pytest.mark.parametrize("length", ["fit.steps", "fit.epochs"])
def test_what_a_method_does_beyond_its_steps_is_found(method: str, more: int, length: str) -> None:
    built, stream = prepare(Experiment("permuted-digits", method, tasks=3, net="linear", options={length: 3}))
    trial = cost._Trial(built, stream, Setting())
    speed = trial.speed(2)
    assert (speed.first, speed.second) == (1, more)
    assert speed.step >= 0
    assert steps(built, stream) == ([3] * 3 if length == "fit.steps" else [3 * 12] * 3)  # 1,438 examples by 128


def test_a_method_that_cannot_learn_is_left_to_say_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    built, stream = prepare(Experiment("permuted-digits", "finetune", tasks=2, net="linear", options=SMALL))
    monkeypatch.setattr(type(built), "learn", lambda *_: 1 / 0)
    assert isnan(cost.estimate(built, stream, Setting()))


@pytest.mark.parametrize(("seconds", "words"), [(61, "61 s"), (600, "10 minutes"), (9000, "2.5 hours")])
def test_a_time_is_said_as_people_do(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


@pytest.mark.parametrize(("seconds", "said"), [(59.0, []), (nan, []), (120.0, ["this run will take about 4 minutes"])])
def test_only_a_long_run_is_announced(seconds: float, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "estimate", lambda *_: seconds / 2 if seconds < 60 else seconds)
    notes: list[str] = []
    experiment = Experiment("permuted-digits", "finetune", tasks=1, net="linear", seeds=(0, 1), options=SMALL)
    execute(experiment, watch=lambda moment: notes.append(moment.note), announce=True)
    assert [note.partition(";")[0] for note in notes if "will take" in note] == said


@pytest.mark.parametrize(
    ("stream", "options"),
    [
        ("permuted-digits", {"tasks": 20, "fit.epochs": 90, "fit.batch": 500}),
        ("split-digits", {"scenario": "gg"}),
        ("permuted-digits", {"scenario": "nns"}),
    ],
)
def test_smoke_is_two_small_tasks_and_a_few_steps(stream: str, options: dict) -> None:
    result = perdure.run(stream, "finetune", options={"smoke": True, "net": "linear", **options})
    assert result.stream == f"{stream} (smoke)"
    assert result.tasks == 2
    assert sum(map(len, result.losses)) == (8 if "nns" in options.values() else 10)  # 128 examples by 16, or 2 x 5
    assert result.options["experiment"]["smoke"] is True
    assert "--smoke" in result.options["command"]


def test_a_part_of_a_stream_is_plain_data() -> None:
    experiment = Experiment("permuted-digits", "ewc", first=2, hold_out=0.25)
    assert command(experiment) == "perdure run permuted-digits ewc --first 2 --hold-out 0.25"
    _, stream = prepare(experiment)
    assert (len(stream), len(stream.tasks[0].examples), len(stream.exams[0].examples)) == (2, 1078, 360)
    with pytest.raises(Refused, match="first is 9, but the stream has 5 tasks; use at most that"):
        prepare(Experiment("permuted-digits", "ewc", first=9))
