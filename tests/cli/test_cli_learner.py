"""`perdure learner`: what every verb says and leaves behind, and what it refuses."""

import csv
import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from perdure.cli.learner import VERBS
from perdure.methods import METHODS
from perdure.store import locked

SMALL = "--net mlp:16 --fit.steps 60 --fit.batch 32"
LOOSE = "--max-drop 1 --max-flips 1"
WORDS = {0: ("vanda", "cattleya"), 1: ("bracken", "polypody"), 2: ("mint", "dill")}
NAMES = ("orchids", "ferns", "herbs")


def clouds(task: int, n: int = 60, d: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds of points far apart, in other places for every task, and the names of their classes."""
    places = np.random.default_rng(100 + task).normal(size=(2, d)) * 6
    y = np.arange(n) % 2
    return places[y] + np.random.default_rng([seed, task]).normal(size=(n, d)), np.array(WORDS[task])[y]


@pytest.fixture(autouse=True)
def data(perdure) -> None:
    """orchids.npz, ferns.npz and herbs.npz to learn, and new-*.npz of each to ask."""
    for task, name in enumerate(NAMES):
        X, y = clouds(task)
        np.savez(f"{name}.npz", X=X, y=y)
        np.savez(f"new-{name}.npz", X=clouds(task, n=12, seed=5)[0])


@pytest.fixture
def plants(perdure):
    """A learner of orchids and ferns."""
    assert perdure(f"learner create plants --method independent {SMALL} {LOOSE}").status == 0
    for name in NAMES[:2]:
        assert perdure(f"learner learn plants {name}.npz --name {name}").status == 0
    return perdure


def last(said) -> object:
    """What the last line of stdout says."""
    return json.loads(said.out.splitlines()[-1])


def history(perdure) -> list[str]:
    """What was done, oldest first, as the terminal shows it, without times and bytes."""
    said = perdure("learner history plants")
    assert (said.status, said.err) == (0, "")
    rows = said.out.splitlines()[2:]
    return [re.sub(r" +\d\d\d\d-\d\d-\d\d \d\d:\d\d|[\d.]+ [kM]?B", "", " ".join(row.split())) for row in rows]


# --- from nothing to answers


def test_it_says_what_to_do_next(perdure) -> None:
    said = perdure(f"learner create plants --method er {SMALL}")
    assert said == (0, "made plants (er on mlp:16)\nnext: perdure learner learn plants DATA\n", "")
    said = perdure("learner learn plants orchids.npz --name orchids")
    assert (said.status, said.err) == (0, "")
    first, second = said.out.splitlines()
    assert re.fullmatch(r"orchids: 48 examples learned in \d+\.\d s, \d+\.\d% on its exam of 12", first)
    assert re.fullmatch(r"promoted \(entry 1\); [\d.]+ kB in all", second)


def test_a_task_without_a_name_has_a_number(perdure) -> None:
    perdure(f"learner create plants {SMALL}")
    assert perdure("learner learn plants orchids.npz").out.startswith("task-1: 48 examples learned")


def test_labels_are_a_line_each(plants) -> None:
    said = plants("learner predict plants new-ferns.npz --task ferns")
    assert (said.status, said.out.split(), said.err) == (0, list(clouds(1, n=12)[1]), "")


def test_the_last_line_is_labels_tasks_and_confidence(plants) -> None:
    said = plants("learner predict plants new-orchids.npz --json")
    assert (said.status, said.err) == (0, "")
    found = last(said)
    assert list(found) == ["labels", "tasks", "confidence"]
    assert set(found["tasks"]) <= {"orchids", "ferns"}
    assert all(0.5 <= sure <= 1 for sure in found["confidence"])
    asked = last(plants("learner predict plants new-orchids.npz --task orchids --json"))
    assert asked["labels"] == list(clouds(0, n=12)[1])
    assert asked["tasks"] == ["orchids"] * 12


def test_a_file_has_a_line_for_each_input(plants) -> None:
    said = plants("learner predict plants new-orchids.npz --out predictions.csv")
    assert said == (0, "", "")
    found = last(plants("learner explain plants new-orchids.npz --json"))
    with open("predictions.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["row", "label", "task", "confidence", "fits"]
    assert rows[1:] == [
        [str(row), *map(str, parts)] for row, parts in enumerate(zip(*found.values(), strict=True))
    ]  # fmt: skip


def test_explain_shows_ten_and_says_where_the_rest_is(plants) -> None:
    said = plants("learner explain plants new-ferns.npz --task ferns")
    assert (said.status, said.err) == (0, "")
    title, _, *rows, more = said.out.splitlines()
    assert title.split() == ["label", "task", "confidence", "fits"]
    assert len(rows) == 10
    for row, label in zip(rows, clouds(1, n=12)[1], strict=False):
        assert re.fullmatch(rf"{label} +ferns +[01]\.\d\d   (True|False) *", row)
    assert more == "... and 2 more; --out FILE or --json has all"
    found = last(plants("learner explain plants new-ferns.npz --json"))
    assert list(found) == ["labels", "tasks", "confidence", "fits"]
    assert {len(part) for part in found.values()} == {12}


def test_a_table_finds_its_columns_by_name(perdure) -> None:
    perdure(f"learner create plants {SMALL}")
    X, y = clouds(0, d=3)
    rows = [f"{','.join(map(str, x))},{label}" for x, label in zip(X, y, strict=True)]
    Path("a.csv").write_text("\n".join(["long,wide,high,kind", *rows]))
    assert perdure("learner learn plants a.csv --label kind --name orchids").status == 0
    Path("b.csv").write_text("high,long,more,wide\n" + "\n".join(f"{x[2]},{x[0]},7,{x[1]}" for x in X))
    found = last(perdure("learner predict plants b.csv --json"))
    assert (np.array(found["labels"]) == y).mean() > 0.9
    Path("c.csv").write_text("high,long\n1,2\n")
    said = perdure("learner predict plants c.csv")
    assert (said.status, said.out) == (2, "")
    assert said.err == (
        "perdure: no task was learned from a table of high, long; this learner knows a table of long, wide, high\n"
    )


# --- updates


def test_an_update_that_costs_too_much_is_kept_back_and_ends_with_1(perdure) -> None:
    perdure(f"learner create plants --method finetune {SMALL}")
    perdure("learner learn plants orchids.npz --name orchids")
    said = perdure("learner learn plants ferns.npz --name ferns")
    assert (said.status, said.err) == (1, "")
    assert re.search(
        r"kept back: orchids fell from \d+\.\d% to \d+\.\d%; the policy allows a drop of 5\.0%\n"
        r"kept back \(entry 2\); the version before still answers\n"
        r"to let it answer all the same: perdure learner promote plants 2\n$",
        said.out,
    )
    assert "task      before" in said.out
    assert set(last(perdure("learner predict plants new-ferns.npz --json"))["tasks"]) == {"orchids"}
    said = perdure("learner promote plants 2")
    assert said == (0, "promoted 2: plants answers for orchids, ferns (entry 3)\n", "")
    assert last(perdure("learner predict plants new-ferns.npz --json"))["tasks"] != ["orchids"] * 12
    assert history(perdure)[-1] == "3 promoted 2"


def test_a_candidate_that_is_held_ends_with_0(perdure) -> None:
    perdure(f"learner create plants {SMALL}")
    said = perdure("learner learn plants orchids.npz --name orchids --hold --json")
    report = last(said)
    assert said.status == 0
    assert (report["verdict"], report["reasons"]) == ("kept back", ["it waits to be promoted"])
    assert said.err.endswith("to let it answer all the same: perdure learner promote plants 1\n")
    assert len(said.out.splitlines()) == 1
    assert perdure("learner predict plants new-orchids.npz").status == 2
    entry = last(perdure("learner promote plants 1 --json"))
    assert (entry["number"], entry["event"], entry["base"]) == (2, "promoted", 1)


def test_an_exam_may_be_a_share_or_data(perdure) -> None:
    perdure(f"learner create plants {SMALL}")
    X, y = clouds(0, n=10, seed=3)
    np.savez("exam.npz", X=X, y=y)
    for asked, examples, exam in (("0.5", 30, 30), ("exam.npz", 60, 10), ("0", 60, 0)):
        report = last(perdure(f"learner learn plants orchids.npz --validation {asked} --hold --json"))
        assert (report["examples"], report["asked"]) == (examples, exam)


def test_where_no_example_is_stored_exams_are_brought(perdure) -> None:
    perdure(f"learner create plants --method finetune --store-no-data {SMALL}")
    X, y = clouds(0, seed=3)
    np.savez("exam.npz", X=X, y=y)
    perdure("learner learn plants orchids.npz --name orchids --validation exam.npz")
    said = perdure("learner learn plants ferns.npz --name ferns --exam orchids=exam.npz")
    assert said.status == 1
    assert "kept back: orchids fell from" in said.out
    found = last(perdure("learner check plants --exam orchids=exam.npz --json"))
    assert found["tasks"]["orchids"]["asked"] == 60
    assert found["problems"] == []


# --- history


def test_the_history_shows_everything_that_was_done(plants) -> None:
    plants("learner learn plants herbs.npz --name herbs --hold")
    plants("learner rollback plants")
    plants("learner forget plants orchids")
    done = [re.sub(r" \d+\.\d%| [\d.]+ [kM]?B", "", line).strip() for line in history(plants)]
    assert done == [
        "0 created answers",  # a version without tasks is that of the beginning
        "1 learned orchids",
        "2 learned ferns",
        "3 kept back herbs",
        "4 rolled back to 1",
        "5 forgotten orchids",
    ]
    assert plants("learner history plants").out.splitlines()[0].split() == [
        "when", "(UTC)", "what", "task", "accuracy", "bytes",
    ]  # fmt: skip


def test_the_history_ends_with_the_versions_in_one_line(plants) -> None:
    plants("learner rollback plants 1")
    plants("learner learn plants herbs.npz --name herbs")
    said = plants("learner history plants --json")
    assert said.err.startswith("   when (UTC)")
    assert len(said.out.splitlines()) == 1
    found = last(said)
    assert found["head"] == 4
    kept = [tuple(version[key] for key in ("version", "name", "verdict", "parent")) for version in found["versions"]]
    assert kept == [
        (0, "", "created", None),
        (1, "orchids", "promoted", 0),
        (2, "ferns", "promoted", 1),
        (4, "herbs", "promoted", 1),
    ]


def test_going_back_goes_back_further_each_time(plants) -> None:
    said = plants("learner rollback plants")
    assert said == (0, "rolled back to 1: plants answers for orchids (entry 3)\n", "")
    said = plants("learner rollback plants")
    assert said == (0, "rolled back to 0: plants answers for no task (entry 4)\n", "")
    said = plants("learner rollback plants")
    assert said == (2, "", "perdure: there is no older version to go back to\n")
    said = plants("learner rollback plants 2 --json")
    assert (last(said)["base"], said.err) == (2, "rolled back to 2: plants answers for orchids, ferns (entry 5)\n")
    assert plants("learner forget plants ferns").status == 0
    said = plants("learner rollback plants")
    assert said.out == "rolled back to 5: plants answers for orchids, ferns (entry 7)\n"


def test_going_back_leaves_out_candidates_that_never_answered(plants) -> None:
    plants("learner learn plants herbs.npz --name herbs --hold")
    assert plants("learner promote plants 3").status == 0
    plants("learner learn plants herbs.npz --name more --hold")
    assert plants("learner rollback plants").out == "rolled back to 2: plants answers for orchids, ferns (entry 6)\n"


# --- forget, prune, check


def blobs() -> set[str]:
    return {path.name for path in Path("plants/blobs").iterdir()}


def test_a_task_is_forgotten_and_with_purge_for_good(plants) -> None:
    before = last(plants("learner predict plants new-ferns.npz --task ferns --json"))
    said = plants("learner forget plants orchids")
    assert said == (0, "forgotten: plants answers for ferns (entry 3)\n", "")
    assert last(plants("learner predict plants new-ferns.npz --task ferns --json")) == before
    assert plants("learner predict plants new-orchids.npz --task orchids").status == 2
    assert plants("learner rollback plants").status == 0
    stored = blobs()
    assert plants("learner forget plants orchids --purge").status == 0
    assert len(stored - blobs()) > 3
    assert last(plants("learner predict plants new-ferns.npz --task ferns --json")) == before
    said = plants("learner rollback plants 2")
    assert said.status == 2
    assert said.err == "perdure: the version of entry 2 was pruned; those that are left are of entry 6\n"
    assert plants("learner check plants").status == 0


def test_the_policy_is_shown_and_changed_by_what_is_given(plants) -> None:
    before = plants("learner policy plants")
    assert before == (0, "  --max-drop 1.0\n  --max-flips 1.0\n  --byte-budget none\n  --least 2\n", "")
    said = plants("learner policy plants --byte-budget 20MB --max-drop 0.1")
    assert said.out.splitlines()[:2] == ["changed (entry 3):", "  --max-drop 0.1"]
    assert history(plants)[-1] == "3 policy changed"
    found = last(plants("learner policy plants --byte-budget none --json"))
    assert found == {"max_drop": 0.1, "max_flips": 1.0, "byte_budget": None, "least": 2}
    for wrong, why in (
        ("--max-drop 3", "max_drop is 3.0"),
        ("--byte-budget 10", "the version that answers does not keep it"),
    ):
        said = plants(f"learner policy plants {wrong}")
        assert said.status == 2
        assert said.err.startswith(f"perdure: {why}")
    assert len(plants("learner history plants").out.splitlines()) == 2 + 5


def test_export_says_what_the_program_takes_and_gives(plants) -> None:
    said = plants("learner export plants out/ferns.pt2 --task ferns --json")
    made = last(said)
    assert (made["path"], made["shape"], sorted(made["labels"])) == ("out/ferns.pt2", [4], ["bracken", "polypody"])
    assert made["nbytes"] == Path("out/ferns.pt2").stat().st_size
    assert (
        said.err.splitlines()[1]
        == f"it takes float32 of shape (n, 4), and gives logits of: {', '.join(made['labels'])}"
    )
    for words, why in (
        ("ferns.pth --task ferns", "ferns.pth says no kind"),
        ("x.pt2 --task fern", "unknown task 'fern'"),
    ):
        said = plants(f"learner export plants {words}")
        assert said.status == 2
        assert said.err.startswith(f"perdure: {why}")


def test_pruning_frees_what_is_old(plants) -> None:
    before = sum(path.stat().st_size for path in Path("plants/blobs").iterdir())
    said = plants("learner prune plants --json")
    freed = last(said)["freed"]
    assert (said.status, said.err[:6]) == (0, "freed ")
    entry = sum(path.stat().st_size for path in Path("plants/blobs").iterdir()) + freed - before
    assert 0 < entry < 2000  # the entry that says so
    rows = [line.split() for line in plants("learner history plants").out.splitlines()[2:]]
    assert [row[-1] for row in rows if {"created", "learned"} & {*row}] == ["pruned", "pruned", "answers"]
    assert plants("learner prune plants --versions 3").out == "freed 0 B\n"
    assert plants("learner check plants").status == 0


def test_a_check_ends_with_0_where_all_is_well(plants) -> None:
    said = plants("learner check plants")
    assert said == (0, "all is well: every file is whole, and 2 exams are answered as they were\n", "")
    found = last(plants("learner check plants --json"))
    assert list(found) == ["problems", "notes", "tasks"]
    assert (found["problems"], found["notes"], sorted(found["tasks"])) == ([], [], ["ferns", "orchids"])


def test_a_check_that_finds_something_ends_with_1(plants) -> None:
    written = [path for path in Path("plants/blobs").iterdir() if path.read_bytes()[:1] == b"{"]
    (path,) = (path for path in written if json.loads(path.read_text()).get("event") == "created")
    path.write_bytes(path.read_bytes() + b" ")
    assert plants("learner predict plants new-ferns.npz").status == 0
    said = plants("learner check plants --json")
    assert said.status == 1
    assert last(said)["problems"] == [
        f"the ledger of plants is damaged: the state file {path} was changed or damaged: its content no longer has its "
        "SHA-256. Restore that file from a copy"
    ]
    assert said.err.startswith("wrong: the ledger of plants is damaged")


# --- two at a time


def test_a_second_writer_is_refused_or_waits(plants) -> None:
    message = "perdure: another process is working in plants; wait for it or choose another folder\n"
    with locked(Path("plants/lock")):
        for words in ("learn plants herbs.npz", "rollback plants", "forget plants ferns", "prune plants"):
            assert plants(f"learner {words}") == (2, "", message)
        for words in ("predict plants new-ferns.npz", "check plants", "history plants"):
            assert plants(f"learner {words}").status == 0
    held = threading.Event()

    def work() -> None:
        with locked(Path("plants/lock")):
            held.set()
            time.sleep(0.3)

    other = threading.Thread(target=work)
    other.start()
    held.wait()
    assert plants("learner rollback plants --wait 60").status == 0
    other.join()


# --- help


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, perdure) -> None:
    said = perdure(f"learner {verb} --help")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith(f"usage: perdure learner {verb} DIR")
    assert " ".join((VERBS[verb].__doc__ or "").split()) in " ".join(said.out.split())
    assert "%(" not in said.out
    assert perdure(f"learner {verb} -h plants").out == said.out
    assert not Path("plants").exists()


@pytest.mark.parametrize("line", ["learner", "learner --help", "learner -h"])
def test_help_names_every_verb_and_a_start(line: str, perdure) -> None:
    said = perdure(line)
    assert (said.status, said.err) == (0, "")
    for verb in VERBS:
        assert re.search(rf"^  {verb} +[A-Z]", said.out, re.MULTILINE)
    assert said.out.endswith("A start: perdure learner create plants\n")


def test_help_of_create_has_settings_and_policy_and_says_where_the_other_options_are(perdure) -> None:
    words = " ".join(perdure("learner create --help").out.split())
    for option in ("--method TEXT", "--scaling one|columns|none", "--max-drop X", "--byte-budget N|TEXT", "--ids "):
        assert option in words
    assert words.endswith("in: perdure run --help; such as --method.slots in: perdure show METHOD")


# --- bad input


NEW = "learner create new"
LEARN = "learner learn plants orchids.npz"
MESSAGES = {
    "learner lern plants": f"unknown learner verb 'lern'; did you mean learn? There are: {', '.join(VERBS)}",
    "learner create": "DIR is missing. See: perdure learner create --help",
    "learner learn": "DIR is missing. See: perdure learner learn --help",
    "learner learn plants": "DATA is missing. See: perdure learner learn --help",
    "learner promote plants": "NUMBER is missing. See: perdure learner promote --help",
    "learner forget plants": "NAME is missing. See: perdure learner forget --help",
    "learner history plants more": "unrecognized arguments: more. See: perdure learner history --help",
    "learner create plants": "plants holds a learner; open it, or choose another folder",
    "learner create orchids.npz/x": "orchids.npz/x cannot be made (Not a directory); choose another folder",
    "learner create .": ". holds other files (ferns.npz); choose a new or an empty folder",
    f"{NEW} --method ewcc": f"unknown method 'ewcc'; did you mean ewc? There are: {', '.join(METHODS)}",
    f"{NEW} --method my.py:X": "method 'my.py:X' is a file, and a learner on disk runs none; use a name",
    f"{NEW} --net mpl:3": (
        "net 'mpl:3' is unknown, the nearest kind is mlp; write a kind and its sizes, such as mlp:400-400 or conv:16-32"
    ),
    f"{NEW} --keep -1": "keep is -1; it must be 0 to 4294967296",
    f"{NEW} --keep many": "--keep is 'many'; it must be a whole number",
    f"{NEW} --max-drop 2": "max_drop is 2.0; it is a share between 0 and 1",
    f"{NEW} --byte-budget much": (
        "'much' is no number of bytes; write a number and one of B, kB, KB, MB, GB, KiB, MiB, GiB"
    ),
    f"{NEW} --scaling two": "--scaling is 'two'; it must be one or columns or none",
    f"{NEW} --lr 1": "unknown option '--lr'; did you mean --fit.lr? See: perdure learner create --help",
    f"{NEW} --slots 1": "unknown option '--slots'; did you mean --method.slots? See: perdure learner create --help",
    f"{NEW} --mehtod er": "unknown option '--mehtod'; did you mean --method? See: perdure learner create --help",
    f"{NEW} --fit.lr fast": "--fit.lr is 'fast'; it must be a number",
    f"{NEW} --method.slots -1": "method.slots is -1; it must not be negative (0 replays nothing)",
    f"{NEW} --net mlp:999999": (
        "net 'mlp:999999' with er takes 4,099,999,999 numbers for inputs of shape (1, 64, 64); at most 134,217,728 may "
        "be asked for"
    ),
    "learner check nowhere": "nowhere does not exist; make one with: perdure learner create nowhere",
    "learner check orchids.npz": "orchids.npz is no folder; make one with: perdure learner create orchids.npz",
    "learner check .": ". holds no learner (no HEAD); make one with: perdure learner create .",
    "learner learn plants none.npz": "there is no file none.npz; check the path",
    "learner learn plants new-ferns.npz": "new-ferns.npz has no y; it needs X, y, and has X",
    f"{LEARN} --validation 2": "validation is 2.0; it is a share from 0 to below 1, or data",
    f"{LEARN} --validation none.npz": "there is no file none.npz; check the path",
    f"{LEARN} --name ''": (
        "'' is no name for a task: it has 1 to 200 characters that can be printed, and not only blanks"
    ),
    f"{LEARN} --label x": "label 'x' names a column, which only tables have; leave it out, or give a table",
    f"{LEARN} --exam orchids": "--exam 'orchids' is no exam; write NAME=DATA, as in --exam orchids=exam.npz",
    f"{LEARN} --exam roses=ferns.npz": "unknown task 'roses'. There are: orchids, ferns",
    f"{LEARN} --wait soon": "--wait is 'soon'; it must be a number. See: perdure learner learn --help",
    f"{LEARN} --device tpu": "device 'tpu' is unknown; use auto, cpu or cuda",
    f"{LEARN} --nam x": "unknown option '--nam'; did you mean --name? See: perdure learner learn --help",
    "learner predict plants ferns.npz --task fern": (
        "unknown task 'fern'; did you mean ferns? There are: orchids, ferns"
    ),
    "learner predict plants wide.npz": (
        "no task was learned from numbers of shape (9,); this learner knows numbers of shape (4,)"
    ),
    "learner explain plants ferns.npz --jsn": (
        "unknown option '--jsn'; did you mean --json? See: perdure learner explain --help"
    ),
    "learner promote plants x": "'x' is no number of an entry; see perdure learner history",
    f"learner rollback plants {'9' * 5000}": f"{'9' * 18!r} is no number of an entry; see perdure learner history",
    "learner promote plants 1": "entry 1 is no candidate that was kept back",
    "learner rollback plants 9": "there is no entry 9; the history has 0 to 2",
    "learner forget plants roses": "unknown task 'roses'. There are: orchids, ferns",
    "learner prune plants --versions 0": "versions is 0; the one that answers must stay",
    "learner prune plants --versions x": (
        "--versions is 'x'; it must be a whole number. See: perdure learner prune --help"
    ),
}  # fmt: skip


def test_bad_input_is_one_message_and_changes_nothing(plants) -> None:
    np.savez("wide.npz", X=np.zeros((2, 9)))
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for line, message in MESSAGES.items():
        said = plants(line)
        assert said == (2, "", f"perdure: {message}\n"), line
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_method_with_shared_weights_says_where_to_go_back_to(perdure) -> None:
    perdure(f"learner create plants --method finetune {SMALL} {LOOSE}")
    perdure("learner learn plants orchids.npz --name orchids")
    perdure("learner learn plants ferns.npz --name ferns")
    said = perdure("learner forget plants ferns")
    assert said == (
        2,
        "",
        "perdure: Finetune cannot forget one task: its weights are shared by all of them. Roll back to a state before "
        "it was learned: perdure learner rollback plants 1\n",
    )
