"""Piggyback: one frozen backbone, and for every task a learned mask that says which of its weights to use.

    m_t = 1[s_t >= cut]                               binary
    m_t = 1[s_t >= cut] - 1[s_t <= -cut]              ternary: a weight may also be turned round
    min over s_t and the head V_t of L_t(W * m_t, V_t);   dL/ds = dL/d(W m) * W, straight-through

    bind(W, m_t) = W * m_t

All scores start at the same value above the cut, so a task starts from the whole backbone W. Order does not matter:
what a task learns depends on W and on itself alone. A withheld id is inferred: the task with the lowest entropy
answers.

Reference: A. Mallya, D. Davis, S. Lazebnik, "Piggyback: Adapting a single network to multiple tasks by learning to mask
weights", 2018, arXiv 1801.06519.
Deviations: where nothing was pre-trained (no background, `trunk="first"`) the backbone is learned on the first task,
whose mask is all ones. One optimiser and one rate, those of `fit`, for scores and heads; the paper has 1e-4 for both.
Adam is blind to scale, so what counts for a mask is how many steps of the rate lie between start and cut: 50 in the
paper, which trains 30 epochs; 5 at the default rate 1e-3, which suits the default 1,000 steps (on permuted digits 50
are no worse). No weight decay on masks and heads, whatever `fit` says: it would pull scores below the cut. A ternary
mask is -1 only where a score is as far below 0 as the cut is above; in the authors' code, wherever one is below 0.
Statistics of normalisation are each task's own, not frozen. Moments are fresh for every task. Inference by entropy is
not in the paper, which is given the id.
Memory: the backbone, and for each task a coded mask (at most a bit a weight, two if ternary), a head and statistics. A
task that is forgotten takes these along; a backbone that was learned on it stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Refused, Scenario, Task, TaskId, Trace, check_words
from perdure.model import Model, Part, head_of, index_of, own_head, parts_of, without
from perdure.ops.codec import decode, encode, unpack
from perdure.ops.infer import Bound, Made, respond
from perdure.ops.masks import Threshold, Through, learn_masks, maskable
from perdure.ops.trunk import Origin, Trunk, begin, learn_trunk, part_of
from perdure.train import Descent, Layout, competing, frozen

Params = dict[str, Tensor]
Values = Literal["binary", "ternary"]


class Own(NamedTuple):
    """What belongs to one task."""

    part: Part
    planes: tuple[Params, ...]  # coded, by name of the weight: where its mask is 1 and, if ternary, where it is -1

    @property
    def task(self) -> int:
        return self.part.task


class Piggybacked(NamedTuple):
    """A backbone and the tasks on it."""

    trunk: Trunk
    own: tuple[Own, ...]  # in the order of learning


class Ternary:
    """A mask is the sign of each score that is at least a cut in size, else 0."""

    signed = False

    def __init__(self, cut: float) -> None:
        self.cut = cut

    def write(self, scores: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> None:
        for name, score in scores.items():
            torch.sign(score, out=out[name]).mul_(score.abs() >= self.cut)

    def masks(self, scores: Mapping[str, Tensor]) -> Params:
        """-1., 0. and 1., by name."""
        return {name: score.sign() * (score.abs() >= self.cut) for name, score in scores.items()}


def bind(params: Params, masks: Params) -> Params:
    """The backbone as a task uses it: masked weights times their masks, the others as they are."""
    return {name: w * masks[name] if name in masks else w for name, w in params.items()}


def coded(masks: Params, values: Values) -> tuple[Params, ...]:
    """Masks as bit planes: where they are 1 and, if ternary, where they are -1."""
    planes = [{name: encode(mask > 0) for name, mask in masks.items()}]
    if values == "ternary":
        planes.append({name: encode(mask < 0) for name, mask in masks.items()})
    return tuple(planes)


def unpacked(planes: tuple[Params, ...], params: Params) -> Params:
    """Masks of some parameters as floats, from packed bit planes."""
    masks = {}
    for name in planes[0]:
        w = params[name]
        kept, *turned = (unpack(plane[name], w.numel()).view(w.shape).to(w) for plane in planes)
        masks[name] = kept - turned[0] if turned else kept
    return masks


@dataclass(frozen=True, eq=False)
class Piggyback(Method):
    """A mask a task over a backbone that never changes, at a bit or less a weight.

    Masks cover Linear and convolution weights below the head; biases and normalisation scales are the backbone's.
    Weights that `fit.freeze` names are never masked.

    Args:
        values: of a mask: 0 and 1, or also -1.
        trunk: the backbone: learned on the background or the first task, random, or the net as it is given.
        start: where all scores start.
        cut: the score that a weight needs to be kept (0 to start).
    """

    values: Values = "binary"
    trunk: Origin = "first"
    start: float = 1e-2
    cut: float = 5e-3

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "task"
    states: ClassVar = (Piggybacked, Trunk, Own, Part, Model, TaskId)
    isolates: ClassVar = True
    alone: ClassVar = True

    def __post_init__(self) -> None:
        check_words("method", self)
        if not 0 <= self.cut <= self.start:
            raise Refused(
                f"method.cut is {self.cut:g} and method.start {self.start:g}: a network whose weights all start below "
                "the cut answers nothing and cannot learn; give 0 <= cut <= start"
            )

    def init(self, key: int, background: Examples | None = None) -> Piggybacked:
        if not self._masked():
            raise Refused(
                "piggyback masks the weights below the head, and this net has none that may move; add a layer"
            )
        return Piggybacked(begin(self.net, self.fit, self.trunk, key, background), ())

    def learn(self, state: Piggybacked, task: Task, key: int) -> tuple[Piggybacked, Trace]:
        index, trunk = index_of(task, [own.task for own in state.own]), state.trunk
        if trunk.made:
            masks, params, model, trace = self._mask(trunk.model, task, key)
        else:
            trunk, model, trace = learn_trunk(self.net, self.fit, trunk, task, key)
            params = model.params
            masks = {name: torch.ones_like(params[name], dtype=torch.bool) for name in self._masked()}
        own = Own(part_of(self.net, self.fit, index, params, model), coded(masks, self.values))
        others = tuple(own for own in state.own if own.task != index)
        return Piggybacked(trunk, (*others, own)), trace

    def ready(self, state: Piggybacked) -> Bound:
        start = state.trunk.model
        sizes = {name: w.numel() for name, w in start.params.items()}
        packed = [
            tuple({name: decode(code, sizes[name]) for name, code in plane.items()} for plane in own.planes)
            for own in state.own
        ]

        def made(place: int) -> Model:
            part = state.own[place].part
            params = bind(start.params, unpacked(packed[place], start.params))
            return Model({**params, **part.head}, part.stats, part.id.classes, {})

        return Bound(start, Made([own.task for own in state.own], made))

    def predict(self, ready: Bound, x: Tensor, id: TaskId | None = None) -> Answer:
        return respond(self.net, ready, x, id)

    def forget(self, state: Piggybacked, index: int) -> Piggybacked:
        return state._replace(own=without(state.own, index))

    def _masked(self) -> list[str]:
        """The weights that take a mask."""
        beside = frozen(self.net, self.fit) | set(parts_of(head_of(self.net, self.fit)))
        return [name for name in maskable(self.net) if name not in beside]

    def _mask(self, backbone: Model, task: Task, key: int) -> tuple[Params, Params, Model, Trace]:
        """The masks of a task, its parameters (of which the head is its own), its statistics and labels, the trace."""
        model, masked = own_head(self.net, self.fit, backbone, task), self._masked()
        head = [name for name in parts_of(head_of(self.net, self.fit)) if name in model.params]
        layout = Layout(model.params)
        moved = layout.flat(
            {name: torch.full_like(w, self.start) if name in masked else w for name, w in model.params.items()}
        )
        fit = replace(self.fit, moments="fresh", weight_decay=0.0)
        descent = Descent(self.net, model, fit, key, competing(fit, task), moved=moved)
        rule = Threshold(self.cut) if self.values == "binary" else Ternary(self.cut)
        masks = learn_masks(Through(descent, descent.flat.clone(), masked, rule, head), descent, task.examples)
        return masks, layout.named(moved), descent.model, descent.trace
