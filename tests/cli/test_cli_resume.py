"""Nothing lost: stopped at any moment, a run goes on and ends as if nothing had happened, bit for bit."""

import errno
import functools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import perdure as library
from perdure.cli import main

pytestmark = pytest.mark.usefixtures("no_page")

OPTIONS = {"fit.steps": 20, "fit.batch": 32}
WORDS = "run permuted-digits ewc --tasks 2 --net linear --threads 1 --fit.steps 20 --fit.batch 32 --out"


def record(folder: str) -> dict:
    return json.loads(Path(folder, "result.json").read_text())


@pytest.fixture(scope="module")
def expected() -> list[list[float]]:
    """R of the run that nobody stops."""
    return library.run("permuted-digits", "ewc", tasks=2, net="linear", threads=1, options=OPTIONS).R.tolist()


class Killed(BaseException):
    """A kill: no handler of errors sees it."""


@pytest.fixture
def at_write(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Does something at the n-th rename of a file, before it or after it."""
    real, count = os.replace, 0

    def arm(number: int, do: Callable[[], None], after: bool = False) -> None:
        nonlocal count
        count = 0

        def replace(one: Path, other: Path) -> None:
            nonlocal count
            count += 1
            if count == number and not after:
                do()
            real(one, other)
            if count == number and after:
                do()

        monkeypatch.setattr("perdure.store.os.replace", replace)

    arm.written = lambda: count
    yield arm
    monkeypatch.setattr("perdure.store.os.replace", real)


def kill() -> None:
    raise Killed


def test_killed_at_every_write(perdure, at_write, expected) -> None:
    at_write(0, kill)
    assert perdure(f"{WORDS} whole").status == 0
    writes = at_write.written()
    assert writes > 20
    for number in range(1, writes + 1):
        out = f"out-{number}"
        at_write(number, kill, after=number % 2 == 0)
        with pytest.raises(Killed):
            main(shlex.split(f"{WORDS} {out}"))
        at_write(0, kill)
        began = Path(out, "experiment.json").exists()
        said = perdure(f"run --resume {out}" if began else f"{WORDS} {out}")
        assert said.status == 0, (number, said.err)
        assert record(out)["R"] == expected, number
        assert set(os.listdir(f"{out}/states")) == set(os.listdir("whole/states"))  # nothing is left behind


def test_a_full_disk_keeps_earlier_tasks(perdure, at_write, expected) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    at_write(0, full)
    perdure(f"{WORDS} whole")
    at_write(at_write.written(), full)  # the last: result.json after the second task
    said = perdure(f"{WORDS} out")
    assert said.status == 2
    assert said.err.splitlines()[-1] == (
        "perdure: out/result.json could not be written (No space left on device); what was saved before is intact. "
        "Make room or choose another folder, then resume"
    )
    assert record("out")["learned"] == 1
    assert not Path("out/result.json.aside").exists()
    at_write(0, full)
    assert perdure("run --resume out").status == 0
    assert record("out")["R"] == expected


def test_interrupted_it_says_how_to_resume(perdure, at_write, expected) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    at_write(20, interrupt)
    said = perdure(f"{WORDS} out")
    assert said.status == 130
    assert said.err.splitlines()[-1] == "perdure: stopped. Continue with: perdure run --resume out"
    at_write(0, interrupt)
    assert json.loads(perdure("run --resume out --json").out.splitlines()[-1])["R"] == expected
    at_write(1, interrupt)
    said = perdure(f"{WORDS} other")
    assert (said.status, said.err) == (130, "perdure: stopped; nothing had been learned\n")


def test_a_full_disk_at_the_page(perdure, monkeypatch: pytest.MonkeyPatch, expected) -> None:
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("perdure.report.write", full)
    said = perdure(f"{WORDS} out")
    assert (said.status, said.err.splitlines()[-1]) == (
        2,
        "perdure: the run in out is complete, but its page could not be written (No space left on device); "
        "write it with: perdure report out",
    )
    assert record("out")["R"] == expected


def test_a_finished_run_is_shown_again(perdure, expected) -> None:
    first = perdure(f"{WORDS} out --json")
    again = perdure("run --resume out --json")
    assert again.out == first.out
    assert "task 1" in again.err  # the matrix, for people


def test_several_seeds_go_on_where_they_were(perdure, at_write) -> None:
    at_write(0, kill)
    figures = json.loads(perdure(f"{WORDS} whole --seeds 2 --json").out)
    at_write(at_write.written() * 3 // 4, kill)
    with pytest.raises(Killed):
        main(shlex.split(f"{WORDS} out --seeds 2"))
    at_write(0, kill)
    said = perdure("report out")
    message = "the run in out is not finished; finish it with: perdure run --resume out"
    assert (said.status, said.err.splitlines()[-1]) == (2, f"perdure: {message}")
    resumed = json.loads(perdure("run --resume out --json").out)
    assert resumed["R"] == figures["R"]
    assert resumed["run_dir"] == ["out/seed-0", "out/seed-1"]


LONG = "run permuted-digits ewc --tasks 3 --net mlp:64 --threads 1 --fit.steps 400 --out out"


@pytest.fixture
def running(perdure, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has learned its first task of three, and no more than two."""
    words = [sys.executable, "-m", "perdure.cli", *LONG.split()]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(words, env=env, preexec_fn=heard, **pipes) as process:
        while process.poll() is None and not (Path("out/result.json").exists() and record("out")["learned"]):
            time.sleep(0.005)
        yield process
        process.kill()


def test_kill_9_then_resume(running: subprocess.Popen[str], perdure) -> None:
    held = perdure("run --resume out")
    assert (held.status, held.err) == (
        2,
        "perdure: another process is working in out; wait for it or choose another folder\n",
    )
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert 1 <= record("out")["learned"] < 3
    assert perdure("run --resume out").status == 0  # the lock died with its process
    same = library.run("permuted-digits", "ewc", tasks=3, net="mlp:64", threads=1, options={"fit.steps": 400})
    assert record("out")["R"] == same.R.tolist()


def test_ctrl_c_stops_at_once(running: subprocess.Popen[str]) -> None:
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "perdure: stopped. Continue with: perdure run --resume out"
    assert "Traceback" not in err
    assert record("out")["learned"] < 3
