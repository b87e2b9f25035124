"""What a run has learned, loaded from its folder and ready to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from perdure import nets
from perdure.contract import Fit, Method, Ready, Refused, Scale, State, TaskId
from perdure.experiments.experiment import is_own
from perdure.methods import METHODS
from perdure.model import with_outputs
from perdure.options import method_class
from perdure.program import Program, check_suffix, export
from perdure.result import read_kept, read_record
from perdure.store import Blobs, load_state


@dataclass(frozen=True)
class Learned:
    """What a run has learned, ready to answer."""

    method: Method
    state: State
    ready: Ready
    scale: Scale
    classes: list[list[int]]  # of each task; empty in NNs
    shape: tuple[int, ...]  # of one input
    words: dict[int, str | int]  # what the data call labels, where these are not numbers of their own

    def predict(self, x: Any, task: int | None = None) -> np.ndarray[Any, np.dtype[Any]]:
        """(B,) labels of inputs x (B, ...) as the data set stores them (uint8 images unscaled).

        Labels are those of the stream: in gnu the number of a task and label where tasks share names, in gns and nns
        0..l-1 where they share none. Where the data have words for them, they are these words.

        Args:
            task: which task they are of, 1 for the first; inferred or not needed when not given.

        Raises:
            Refused: there is no such task, the inputs have another shape, or the method cannot answer yet.
        """
        id = self._id(task)
        inputs, parts = torch.as_tensor(np.asarray(x)), []
        if inputs.shape[1:] != self.shape:
            raise Refused(f"the inputs have shape {tuple(inputs.shape)}; give (B, {', '.join(map(str, self.shape))})")
        for part in inputs.split(1024):
            answer = self.method.predict(self.ready, self.scale(part), id)
            if not len(answer.labels):
                raise Refused("nothing was learned that could answer this")
            parts.append(answer.labels[answer.logits.argmax(1)])
        labels = torch.cat(parts).numpy() if parts else np.zeros(0, np.int64)
        return np.array([self.words[label] for label in labels.tolist()]) if self.words else labels

    def export(self, path: str | Path, task: int | None = None) -> Program:
        """Writes what is answered as one file that needs no Perdure: see `perdure.program`.

        Args:
            path: ends in `.pt2` for a program of torch, or in `.onnx`.
            task: as in `predict`.

        Raises:
            Refused: there is no such task, or no program can be made of what is answered. Nothing is written then.
        """
        check_suffix(path := Path(path))
        id, words = self._id(task), self.words
        about = {"task": task}
        return export(
            path, self.method, self.ready, self.shape, self.scale.__call__, id, lambda n: words.get(n, n), about
        )

    def _id(self, task: int | None) -> TaskId | None:
        """Of a task by its number, 1 for the first."""
        if task is not None and not 1 <= task <= len(self.classes):
            raise Refused(f"there is no task {task}; there are {len(self.classes)}, counted from 1")
        return None if task is None else TaskId(task - 1, torch.tensor(self.classes[task - 1]))


def load(folder: str | Path, method: type[Method] | None = None, net: nn.Module | None = None) -> Learned:
    """What the run in a folder has learned so far.

    Args:
        method: the class, where it is the user's own; a folder alone never runs code.
        net: the user's own module, where the run had one.

    Raises:
        Refused: there is no run, it was damaged, or it needs `method` or `net`.
    """
    folder = Path(folder)
    record = read_kept(folder, "experiment.json")
    if (seeds := sorted(folder.glob("seed-*"))) and not (folder / "result.json").exists():
        raise Refused(f"{folder} holds a run for each seed; load one of them: {seeds[0]}")
    name = record["experiment"]["method"]
    if method is None and name not in METHODS:
        raise Refused(
            f"the run in {folder} uses {name}, a method of your own; give its class: load({str(folder)!r}, method=...)"
        )
    shape, rows, fit = tuple(record["net"]["shape"]), record["net"]["labels"], Fit(**record["fit"])
    if net is None and is_own(record["net"]["name"]):
        own = record["net"]["name"]
        raise Refused(f"the run in {folder} has a net of your own ({own}); give it: load({str(folder)!r}, net=...)")
    if net is None:
        net = nets.build(record["net"]["name"], shape, rows)
    cls = method or method_class(name)
    built = cls(net=with_outputs(net, fit, rows), fit=fit, **record["method"])
    state = load_state(Blobs(folder / "states"), read_record(folder)["state"], cls.states)
    scale, words = Scale(**record["scale"]), dict(record["words"])
    return Learned(built, state, built.ready(state), scale, record["classes"], shape, words)
