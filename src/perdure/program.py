"""Answers as one file that needs no Perdure: a program of torch (`.pt2`) or of ONNX (`.onnx`).

What is written is what `predict` does, followed operation by operation: from float32 inputs (n, ...) as they are
stored, before any scale, to logits (n, l). A JSON in the same file, under the name `perdure.json` (ONNX: in the
metadata, `perdure`), says which label each of the l columns is.

    program = torch.export.load("plants.pt2", extra_files=(about := {"perdure.json": ""})).module()
    program(x).argmax(1)
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

import perdure
from perdure.contract import Method, Ready, Refused, TaskId
from perdure.rng import normal
from perdure.store import write

ABOUT = "perdure"
SUFFIXES = (".pt2", ".onnx")


class Program(NamedTuple):
    """What was written."""

    path: Path
    shape: tuple[int, ...]  # of one input
    labels: tuple[str | int, ...]  # of the columns that it gives
    nbytes: int


def check_suffix(path: Path) -> None:
    """Raises Refused where a path does not say which kind of program is wanted, or that kind cannot be written."""
    if path.suffix not in SUFFIXES:
        raise Refused(f"{path.name} says no kind of program; end it in .pt2 (torch) or .onnx (ONNX)")
    if path.suffix == ".onnx" and (lacking := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]):
        raise Refused(f"ONNX needs {' and '.join(lacking)}; install them with: pip install 'perdure[onnx]'")


def export(
    path: Path,
    method: Method,
    ready: Ready,
    shape: Sequence[int],
    scale: Callable[[Tensor], Tensor],
    id: TaskId | None,
    name: Callable[[int], str | int],
    about: Mapping[str, Any],
) -> Program:
    """Writes what a method answers, of one task or, where no task has to be found, of all.

    Args:
        shape: of one input.
        scale: makes inputs of the network from inputs as they are stored.
        name: of a label.
        about: what else the JSON says.

    Raises:
        Refused: its answers do not follow from an input by one chain of operations; or the file cannot be written.
    """
    answers, what = _Answers(method, ready, scale, id), type(method).__name__
    x = _trial(shape, scale)
    said = method.predict(ready, scale(x), id)
    if not len(said.labels):
        raise Refused("nothing was learned that could answer this; learn a task first")
    try:
        with _quiet():
            program = torch.export.export(answers, (x,), dynamic_shapes=({0: Dim("n")},), strict=False)
            same = torch.allclose(program.module()(x[:2]), said.logits[:2], rtol=1e-4, atol=1e-4)
    except Exception as error:  # of any kind: torch has dozens
        hint = "; name the task, so that it need not be found" if said.task is not None else ""
        raise Refused(f"what {what} answers cannot be written down as one program{hint}") from error
    if not same:
        raise Refused(f"what {what} answers to an input depends on other inputs beside it, and cannot be written down")
    labels = tuple(map(name, said.labels.tolist()))
    about = {"labels": labels, "shape": list(shape), "software": f"perdure {perdure.__version__}", **about}
    _forget_origin(program)
    content = {".pt2": _torch, ".onnx": _onnx}[path.suffix](program, json.dumps(about))
    write(path, content)
    return Program(path, tuple(shape), labels, len(content))


def _trial(shape: Sequence[int], scale: Callable[[Tensor], Tensor]) -> Tensor:
    """(3, ...) inputs that are as different as stored ones are: normal, once they are scaled."""
    none, one = (scale(torch.full((1, *shape), value)) for value in (0.0, 1.0))
    return (normal(0, 3 * prod(shape)).view(3, *shape).float() - none) / (one - none)


class _Answers(nn.Module):
    """Inputs as they are stored to logits."""

    def __init__(self, method: Method, ready: Ready, scale: Callable[[Tensor], Tensor], id: TaskId | None) -> None:
        super().__init__()
        self.method, self.ready, self.scale, self.id = method, ready, scale, id

    def forward(self, x: Tensor) -> Tensor:
        return self.method.predict(self.ready, self.scale(x), self.id).logits


def _forget_origin(program: ExportedProgram) -> None:
    """Takes from each operation which line of code it came from: that names files of this machine."""
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)


def _torch(program: ExportedProgram, about: str) -> bytes:
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file, extra_files={f"{ABOUT}.json": about})
    return file.getvalue()


def _onnx(program: ExportedProgram, about: str) -> bytes:
    try:
        with _quiet():
            made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["x"], output_names=["logits"])
            assert made is not None
            model = made.model_proto
    except Exception as error:  # of any kind here too
        raise Refused("ONNX, as torch writes it, lacks an operation that the answer needs; write .pt2") from error
    model.metadata_props.add(key=ABOUT, value=about)
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says on the way: its own deprecations, and graphs that it could not follow."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
