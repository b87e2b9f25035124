"""The loop, as a small object: a method writes its own five lines around it.

    descent = Descent(self.net, model, self.fit, key)
    for batch in descent.batches(task.examples):
        grads = descent.grad(F.cross_entropy(descent(batch.x), batch.y))
        descent.step(grads)
    return descent.model, descent.trace

The parameters are views of one flat buffer (P,), and so are the gradients: a method's one line on `grads` is one
kernel over all of them. A method that does not look at them follows the loss instead, and nothing is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatch
from math import ceil, cos, pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.contract import Batch, Examples, Fit, Refused, Scenario, Task, Trace
from perdure.half import passing, single
from perdure.model import Model, rows_of
from perdure.optimiser import COUNT, Optimiser
from perdure.rng import fold, permutation

BATCH = 128  # examples a step when `fit.batch` is not given
STEPS = 1000  # steps a task when neither `fit.epochs` nor `fit.steps` is given
FEW = 4  # buffers of gradients whose parts are remembered
LONE_EXAMPLE = (
    "the net cannot be trained on a batch of one example, as the last of a task would be: batch normalisation compares "
    "the examples of a batch. Change fit.batch, or give a task one example more"
)
BLOCK = 1 << 20  # numbers gathered, scaled and sent to the device at once


class Diverged(Refused):
    """The loss or the weights are no longer finite."""


class Progress(NamedTuple):
    """How far a descent is."""

    step: int
    steps: int
    loss: float


_watcher: ContextVar[Callable[[Progress], None] | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Callable[[Progress], None]) -> Iterator[None]:
    """Calls `watcher` a few times a second with the progress of every descent inside the block."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def show(progress: Progress) -> None:
    """Tells whoever watches how far learning is; a loop without a descent's own batches says it itself."""
    if (watcher := _watcher.get()) is not None:
        watcher(progress)


def length(fit: Fit, examples: int) -> tuple[int, int]:
    """The batch size and the number of steps that `fit` means for a task of so many examples.

    In order of arrival examples are taken as they come, so a last chunk may be shorter than a batch. A batch that was
    not asked for by name is made smaller where the last would hold a single example, of which batch normalisation makes
    nothing.

    Raises:
        Refused: the task is empty, or smaller than a batch that was asked for by name.
    """
    if examples == 0:
        raise Refused("the task holds no examples; give every task at least one")
    if fit.batch is not None and fit.batch > examples and fit.order == "shuffled":
        raise Refused(f"fit.batch is {fit.batch}, but a task has {examples} examples; use at most that")
    size = min(fit.batch or BATCH, examples)
    while fit.batch is None and size > 2 and examples % size == 1:
        size -= 1
    return size, fit.epochs * ceil(examples / size) if fit.epochs else fit.steps or STEPS


def trains_on_one(net: nn.Module, x: Tensor) -> bool:
    """Whether a network can be trained on x (1, ...), an example alone."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            copy.deepcopy(net).train()(x)
        except ValueError:
            return False
    return True


def competing(fit: Fit, task: Task) -> Tensor | None:
    """The labels (n,) whose logits compete while this task is learned; None for all of the head."""
    return task.id.classes if fit.compete == "task" and task.id is not None else None


def for_scenario(fit: Fit, scenario: Scenario) -> Fit:
    """`fit` as a scenario decides it: whose logits compete, and in which order examples come.

    Raises:
        Refused: epochs, steps or a schedule were given where examples arrive once, in a flow.
    """
    from dataclasses import replace

    if fit.compete == "scenario":
        fit = replace(fit, compete="task" if scenario is Scenario.GG else "seen")
    if scenario is Scenario.NNS:
        if given := "steps" if fit.steps is not None else "epochs" if fit.epochs not in (None, 1) else "":
            raise Refused(
                f"fit.{given} has no meaning in scenario nns, where examples arrive once, in a flow; "
                "use --stream.passes and --stream.chunk instead"
            )
        if fit.schedule != "constant" or fit.warmup:
            raise Refused(
                "fit.schedule and fit.warmup have no meaning in scenario nns, where nobody knows how long the flow is; "
                "keep the learning rate constant"
            )
        fit = replace(fit, epochs=1, order="arrival")
    return fit


def frozen(net: nn.Module, fit: Fit) -> set[str]:
    """The names of the parameters that never move: those that `fit.freeze` names, and those that take no gradient.

    Raises:
        Refused: a pattern matches no parameter.
    """
    names = [name for name, _ in net.named_parameters()]
    still = {name for name, param in net.named_parameters() if not param.requires_grad}
    for pattern in filter(None, (part.strip() for part in fit.freeze.split(","))):
        if not (hit := {name for name in names if fnmatch(name, pattern)}):
            raise Refused(f"fit.freeze names {pattern!r}, which matches no parameter; there are {', '.join(names)}")
        still |= hit
    return still


class Layout:
    """Where each named tensor lies in one flat buffer (P,)."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.sizes = [tensor.numel() for tensor in tensors.values()]

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The named tensors as views of a flat one."""
        parts = flat.split(self.sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """The named tensors as copies."""
        return {name: view.clone() for name, view in self.views(flat.detach()).items()}

    def flat(self, tensors: dict[str, Tensor]) -> Tensor:
        """(P,) float: the named tensors in one buffer; rows that the head has grown since are zero.

        Raises:
            Refused: a tensor is missing, or its shape is not that of the parameter or of one that grew from it.
        """
        dtype = {tensor.dtype for tensor in tensors.values()} or {torch.float32}
        device = next(iter(tensors.values())).device if tensors else None
        out = torch.zeros(sum(self.sizes), dtype=dtype.pop(), device=device)
        for name, view in self.views(out).items():
            tensor = tensors.get(name)
            if tensor is None or tensor.shape[1:] != view.shape[1:] or tensor.shape[:1] > view.shape[:1]:
                shape = None if tensor is None else tuple(tensor.shape)
                raise Refused(f"{name} has shape {tuple(view.shape)}, but what is kept for it has shape {shape}")
            view[: len(tensor)].copy_(tensor) if tensor.ndim else view.copy_(tensor)
        return out


class Descent:
    """Gradient descent on a private copy of a network.

    Args:
        net: the user's module; copied, put into training mode, never changed.
        model: start values; never changed.
        fit: how to fit.
        key: order of the batches and the module's own noise.
        classes: (n,) labels that compete; all of the head when not given. Targets and logits count among these.
        hold: (P,) bool in the layout of `flat`: entries that keep their bits, beside those that `fit.freeze` names.
        moved: (P,) what a step moves in place of the parameters, for whoever makes these of it: the scores of a mask.

    Attributes:
        flat: (P,) all parameters; `layout` says where each lies.
        total: steps that the schedule counts on; `batches` says it, or whoever takes batches from another descent.
    """

    def __init__(
        self,
        net: nn.Module,
        model: Model,
        fit: Fit,
        key: int,
        classes: Tensor | None = None,
        hold: Tensor | None = None,
        moved: Tensor | None = None,
    ) -> None:
        self.fit, self.key, self.labels, self.kept = fit, key, model.labels, model.moments
        self.layout = Layout(model.params)
        self.flat = self.layout.flat(model.params)
        self.moved = self.flat if moved is None else moved
        self.device = self.flat.device
        self.net = copy.deepcopy(net).to(self.device).train()
        still = frozen(net, fit)
        self.leaves = self._leaves(model, still)
        self._moving = [leaf for leaf in self.leaves if leaf.requires_grad]
        self.rows = None if classes is None else rows_of(model.labels, classes)
        if self.rows is not None and torch.equal(self.rows, torch.arange(len(model.labels), device=self.device)):
            self.rows = None
        self._grads = torch.zeros_like(self.flat)
        self._views: dict[int, tuple[Tensor, list[Tensor]]] = {}  # the last few buffers of gradients, and their parts
        self._optimiser = Optimiser(fit, list(self.layout.views(self.moved).values()))
        self._hold(hold, still)
        self._losses: list[Tensor] = []
        self._calls = self._steps = self.total = 0

    def _leaves(self, model: Model, still: set[str]) -> list[nn.Parameter]:
        """Makes the private module's parameters views of the flat buffer, and its buffers copies."""
        views = self.layout.views(self.flat)
        leaves: list[nn.Parameter] = []
        for name, param in self.net.named_parameters():
            param.data = views[name]
            param.requires_grad_(name not in still)
            leaves.append(param)
        for name, buffer in self.net.named_buffers():
            buffer.data = model.stats[name].clone()
        return leaves

    def _hold(self, hold: Tensor | None, frozen: set[str]) -> None:
        """Marks what may not move: a decay or kept moments would move a weight whose gradient is zero."""
        held = torch.zeros_like(self.flat, dtype=torch.bool) if hold is None else hold.clone()
        for name, view in self.layout.views(held).items():
            if name in frozen:
                view.fill_(True)
        self._free: Tensor | None = None
        if held.any():  # as integers, since x * 1 + 0 would lose the sign of a zero
            whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[self.flat.element_size()]
            self._free = torch.where(held, 0, -1).to(whole)
            self._held = self.moved.view(whole) & ~self._free

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, n) of the competing labels, in training mode; the module's own noise repeats with the key."""
        self._calls += 1
        cuda = self.device.type == "cuda"
        outer = torch.cuda.get_rng_state(self.device) if cuda else torch.get_rng_state()
        seed = fold(self.key, "noise", self._calls) >> 1
        try:
            torch.cuda.manual_seed(seed) if cuda else torch.default_generator.manual_seed(seed)
            with passing(self.device):
                logits: Tensor = self.net(x)
        except ValueError as error:
            if len(x) == 1:
                raise Refused(LONE_EXAMPLE) from error
            raise
        finally:
            torch.cuda.set_rng_state(outer, self.device) if cuda else torch.set_rng_state(outer)
        logits = single(logits)
        return logits if self.rows is None else logits.index_select(1, self.rows)

    def targets(self, labels: Tensor) -> Tensor:
        """(N,) the place of each label among those that compete.

        Raises:
            Refused: a label is not among them.
        """
        shown = self.labels if self.rows is None else self.labels[self.rows]
        order = shown.argsort()
        place = torch.searchsorted(shown[order], labels.to(self.device)).clamp_(max=max(len(shown) - 1, 0))
        if not len(shown) or not torch.equal(shown[order][place], labels.to(self.device)):
            known = ", ".join(map(str, shown.tolist()))
            raise Refused(f"a label is out of range: the labels that compete are {known or 'none'}")
        return order[place]

    def order(self, n: int, epoch: int) -> Tensor:
        """(n,) the rows of a task in the order in which one pass over it brings them."""
        return permutation(fold(self.key, "order", epoch), n) if self.fit.order == "shuffled" else torch.arange(n)

    def batches(self, examples: Examples) -> Iterator[Batch]:
        """Batches of one task, epochs or steps long: x (B, ...) scaled, y (B,) among the competing labels.

        Raises:
            Diverged: the loss is no longer finite.
        """
        examples = examples.materialise(self.device)
        size, self.total = length(self.fit, n := len(examples))
        targets = self.targets(examples.labels)
        home = examples.labels.device
        width = max(1, examples.raw(torch.zeros(1, dtype=torch.int64, device=home)).numel())
        block, epoch = size * max(1, BLOCK // (width * size)), 0
        while self._steps < self.total:
            for rows in self.order(n, epoch).to(home).split(block):
                x, y, rows = examples.take(rows)
                y = targets.index_select(0, rows.to(self.device))
                for batch in zip(x.to(self.device).split(size), y.split(size), rows.split(size), strict=True):
                    yield Batch(*batch)
                    if self._steps == self.total:
                        break
                self._check()
                if self._steps == self.total:
                    break
            epoch += 1

    def _check(self) -> None:
        loss = float(self._losses[-1]) if self._losses else 0.0
        if not abs(loss) < float("inf"):
            raise Diverged(
                f"the loss is {loss} after {self._steps} steps: training diverged. "
                f"Lower fit.lr (now {self.fit.lr:g}), set fit.clip, or lower the method's strength"
            )
        show(Progress(self._steps, self.total, loss))

    def grad(self, loss: Tensor, onto: Tensor | None = None) -> Tensor:
        """(P,) the gradient of a scalar loss; zero where the loss does not depend on a parameter, or it is frozen.

        Written into one buffer that the next call writes again; `onto` (P,) names another, to which it is added.
        """
        self._note(loss)
        grads = self._grads if onto is None else onto
        parts = self.parts(grads)
        if len(self._moving) < len(parts):
            parts = [part for part, leaf in zip(parts, self.leaves, strict=True) if leaf.requires_grad]
            if onto is None:
                grads.zero_()
        if parts:
            fresh = torch.autograd.grad(loss, self._moving, allow_unused=True, materialize_grads=True)
            with torch.no_grad():
                (torch._foreach_copy_ if onto is None else torch._foreach_add_)(parts, fresh)
        return grads

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """The same gradient as it comes, a tensor each of the leaves: nothing is copied."""
        self._note(loss)
        for leaf in self.leaves:
            leaf.grad = None
        if self._moving:
            loss.backward(inputs=self._moving)
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self.leaves]

    def step(self, grads: Tensor) -> None:
        """Clips, follows the schedule and moves along (P,) gradients; what is held keeps its bits."""
        if self._free is not None:
            grads.view(self._free.dtype).bitwise_and_(self._free)
        if self.fit.clip is not None:
            norm = torch.linalg.vector_norm(grads)
            grads.mul_((self.fit.clip / (norm + 1e-6)).clamp_(max=1.0))
        self._move(self.parts(grads))
        if self._free is not None:
            self.moved.view(self._free.dtype).bitwise_and_(self._free).bitwise_or_(self._held)

    def follow(self, loss: Tensor, pull: Callable[[list[Tensor]], None] | None = None) -> None:
        """A step along the gradient of a loss, for a method that does not look at it: nothing is copied.

        Args:
            pull: adds to the gradients, a tensor each of the leaves, before the step: the gradient of a penalty.
        """
        if self._free is not None or self.fit.clip is not None:
            flat = self.grad(loss)
            if pull is not None:
                pull(self.parts(flat))
            self.step(flat)
            return
        grads = self.gradients(loss)
        if pull is not None:
            pull(grads)
        self._move(grads)

    def _note(self, loss: Tensor) -> None:
        if len(self._losses) == self._steps:
            self._losses.append(loss.detach())

    def parts(self, grads: Tensor) -> list[Tensor]:
        """The views of a flat (P,) buffer, a leaf each; those of the last few buffers are kept."""
        if id(grads) not in self._views:
            if len(self._views) == FEW:
                self._views.clear()
            self._views[id(grads)] = grads, list(self.layout.views(grads).values())  # kept, so that ids stay apart
        return self._views[id(grads)][1]

    def _move(self, grads: list[Tensor]) -> None:
        if self._steps == 0 and self.kept:
            self._optimiser.resume({slot: self._slot(tensors) for slot, tensors in self.kept.items()})
        self._optimiser.step(grads, self._rate())
        self._steps += 1

    def _rate(self) -> float:
        fit, step = self.fit, self._steps
        if step < fit.warmup:
            return fit.lr * (step + 1) / fit.warmup
        if fit.schedule == "cosine":
            return fit.lr * 0.5 * (1 + cos(pi * (step - fit.warmup) / max(1, self.total - fit.warmup)))
        return fit.lr

    def _slot(self, kept: dict[str, Tensor]) -> list[Tensor]:
        """Copies of kept moments, one for each leaf; of another shape they would make torch read foreign memory."""
        if "" in kept:
            return [kept[""].clone() for _ in self.leaves]
        return list(self.layout.views(self.layout.flat(kept)).values())

    @property
    def moments(self) -> dict[str, dict[str, Tensor]]:
        """The optimiser's moments by slot and parameter; a count of steps, alike for all, is named ""."""
        if not self._steps:
            return {slot: {name: tensor.clone() for name, tensor in kept.items()} for slot, kept in self.kept.items()}
        named: dict[str, dict[str, Tensor]] = {}
        for slot, tensors in self._optimiser.slots.items():
            names = ["" for _ in tensors] if slot == COUNT else self.layout.shapes
            named[slot] = {name: tensor.clone() for name, tensor in zip(names, tensors, strict=True)}
        return named

    @property
    def model(self) -> Model:
        """What was learned so far, as copies.

        Raises:
            Diverged: a parameter is no longer finite.
        """
        if not bool(torch.isfinite(self.moved).all()):
            raise Diverged(
                f"the weights are no longer finite after {self._steps} steps: training diverged. "
                f"Lower fit.lr (now {self.fit.lr:g}), set fit.clip, or lower the method's strength"
            )
        stats = {name: buffer.detach().clone() for name, buffer in self.net.named_buffers()}
        moments = self.moments if self.fit.moments == "kept" else {}
        return Model(self.layout.named(self.flat), stats, self.labels, moments)

    @property
    def trace(self) -> Trace:
        """The loss of every batch before its step."""
        return Trace(torch.stack(self._losses).float().cpu() if self._losses else torch.zeros(0))


def minimise(
    net: nn.Module, model: Model, fit: Fit, task: Task, key: int, hold: Tensor | None = None
) -> tuple[Model, Trace]:
    """Fits a model to one task by cross-entropy: the five lines, for whoever needs no more."""
    descent = Descent(net, model, fit, key, competing(fit, task), hold)
    for batch in descent.batches(task.examples):
        descent.follow(F.cross_entropy(descent(batch.x), batch.y))
    return descent.model, descent.trace
