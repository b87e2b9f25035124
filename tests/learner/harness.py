"""Kills a learner at random moments, and looks: `python tests/learner/harness.py --kills 200 --out FILE`.

A child teaches a learner one task after another, now and then rolls back, forgets or prunes, and acknowledges every
entry as soon as the verb that wrote it has returned. It is killed at a moment drawn by the seed. Then the learner must
open, pass its check, and have every entry that was acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from clouds import blobs

from perdure.contract import Refused
from perdure.learner import Learner, Policy

LONGEST = 0.8  # seconds before a kill
FORGETS = 0.15  # how often a verb is to forget, to roll back, and to prune, each


def live(folder: Path, seed: int, pipe: int) -> NoReturn:
    """Works on the learner until it is killed."""
    rng = np.random.default_rng(seed)
    learner = Learner(folder)
    while True:
        tasks, draw = list(learner.tasks), rng.random()
        if draw < FORGETS and len(tasks) > 2:
            learner.forget(str(rng.choice(tasks)))
        elif draw < 2 * FORGETS and len(tasks) > 2:
            with suppress(Refused):  # the version before may have been pruned
                learner.rollback()
        elif draw < 3 * FORGETS and len(tasks) > 2:
            learner.prune(2)
        else:
            number = int(rng.integers(1000))
            learner.learn(blobs(number, n=24), f"task {number}")
        newest = learner.ledger.newest()
        os.write(pipe, f"{json.dumps([newest.number, newest.name])}\n".encode())


def kill(folder: Path, seed: int) -> dict[str, Any]:
    """One life and one death; what was found after it."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            live(folder, seed, write)
        finally:
            os._exit(1)
    os.close(write)
    time.sleep(float(np.random.default_rng([seed, 1]).uniform(0, LONGEST)))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as file:
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith("\n")]
    acknowledged = [json.loads(line) for line in lines]
    learner = Learner(folder)
    names = {entry.number: entry.name for entry in learner.history()}
    aside = list(folder.rglob("*.aside"))
    return {
        "killed": os.WIFSIGNALED(status),
        "acknowledged": len(acknowledged),
        "lost": sum(names.get(number) != name for number, name in acknowledged),
        "problems": list(learner.check().problems),
        "in_a_write": bool(aside),
        "entries": len(names),
    }


def main() -> int:
    """Kills so many times, and prints what was found as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there) / "learner"
        options = {"fit.steps": 10, "fit.batch": 16}
        Learner.create(folder, "supsup", "mlp:16", policy=Policy(1.0, 1.0), keep=2, exam=4, options=options)
        found = [kill(folder, given.seed + turn) for turn in range(given.kills)]
    said = {
        "command": f"python tests/learner/harness.py --kills {given.kills} --seed {given.seed}",
        "date": time.strftime("%Y-%m-%d"),
        "kills": sum(one["killed"] for one in found),
        "in_a_write": sum(one["in_a_write"] for one in found),
        "acknowledged": sum(one["acknowledged"] for one in found),
        "lost": sum(one["lost"] for one in found),
        "problems": [problem for one in found for problem in one["problems"]],
    }
    text = json.dumps(said, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")
    return 1 if said["lost"] or said["problems"] or said["kills"] != given.kills else 0


if __name__ == "__main__":
    sys.exit(main())
