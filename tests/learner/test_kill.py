"""Kills, and readers beside a writer."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from clouds import Make, blobs

from perdure.learner import Learner, Policy

HARNESS = Path(__file__).with_name("harness.py")
READER = """
import json, sys
import numpy as np
from perdure.learner import Learner
x = np.load(sys.argv[2])
learner, seen = Learner(sys.argv[1]), []
print("ready", flush=True)
for line in sys.stdin:
    if line == "stop\\n":
        break
while True:
    said = learner.explain(x)
    seen.append([len(learner.tasks), ",".join(said.labels.tolist())])
    if len(seen) > 1 and seen[-1] == seen[-2]:
        seen.pop()
    if seen[-1][0] >= int(sys.argv[3]):
        break
print(json.dumps(seen))
"""


def test_ten_kills_lose_nothing_that_was_acknowledged() -> None:
    done = subprocess.run([sys.executable, str(HARNESS), "--kills", "10"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == 10
    assert found["acknowledged"] > 0
    assert found["lost"] == 0
    assert found["problems"] == []


def test_eight_readers_during_twenty_updates_see_whole_versions(make: Make, tmp_path: Path) -> None:
    updates, x = 20, blobs(0, seed=9)[0]
    learner = make(method="finetune", policy=Policy(1.0, 1.0), options={"fit.steps": 10})
    learner.learn(blobs(0), "task 0")
    np.save(tmp_path / "x.npy", x)
    words = [sys.executable, "-c", READER, str(learner.folder), str(tmp_path / "x.npy"), str(updates + 1)]
    readers = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        assert reader.stdin is not None
        reader.stdin.write("stop\n")
        reader.stdin.flush()
    whole = {",".join(learner.predict(x).tolist())}
    for task in range(1, updates + 1):
        learner.learn(blobs(task), f"task {task}")
        whole.add(",".join(learner.predict(x).tolist()))
    seen = [json.loads(reader.communicate()[0]) for reader in readers]
    assert all(reader.returncode == 0 for reader in readers)
    assert {answers for one in seen for _, answers in one} <= whole
    assert all([tasks for tasks, _ in one] == sorted(tasks for tasks, _ in one) for one in seen)
    assert all(one[-1][0] == updates + 1 for one in seen)


def test_a_learner_is_whole_for_one_who_opened_it_before_it_was_pruned(make: Make) -> None:
    learner = make(policy=Policy(1.0, 1.0))
    learner.learn(blobs(0), "zero")
    other = Learner(learner.folder)
    assert list(other.tasks) == ["zero"]
    learner.learn(blobs(1), "one")
    learner.prune()
    assert list(other.tasks) == ["zero", "one"]
