"""BatchEnsemble: one matrix of weights for all tasks, and for each task a scale for every input and output channel.

    W_i = W * (s_i t_i^T)       of every layer; W (out, in), s_i (out,), t_i (in,)

    first task    min L_1(W * s_1 t_1^T)  over W, s_1, t_1; W is then frozen   (trained)
    each task     min L_i(W * s_i t_i^T)  over s_i, t_i, from random signs

With G = dL/dW_i:  dL/ds_i = (G * W) t_i,  dL/dt_i = (G * W)^T s_i. A withheld id is inferred. By entropy every task
answers and the surest wins; one-shot, all of them are laid on top of one another, and one gradient tells:

    W(alpha) = W * sum_i alpha_i s_i t_i^T        alpha = 1/k
    task     = argmin_i dH/dalpha_i = argmin_i s_i^T (dH/dW(alpha) * W) t_i, summed over layers

Reference: Y. Wen, D. Tran, J. Ba, "BatchEnsemble: an alternative approach to efficient ensemble and lifelong
learning", 2020, arXiv 2002.06715; random W and one-shot inference: M. Wortsman et al., "Supermasks in superposition",
2020, arXiv 2006.14769.
Deviations: biases and normalisation are each task's own, learned with s and t (the code of the comparison with SupSup
has no biases); superposed, they and the statistics are the mean of the tasks'. A task's labels are the first rows of
the head, in the order in which examples bring them; rows that no earlier task needed are random, as W is where it is
never trained: signed constants. Moments are fresh for each task, whatever `fit.moments` says. One-shot inference is
near chance on permuted digits with two hidden layers of 400; entropy is the default.
Memory: W, or a key where it is random; for each task two vectors a layer, its biases, normalisation and statistics. A
task that is forgotten takes these along; a W that was trained on it stays.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from perdure import tree
from perdure.contract import Answer, Examples, Method, Scenario, Task, TaskId, Trace, check_finite, check_words
from perdure.model import (
    Model,
    answer,
    check_classes,
    first_come,
    head_of,
    index_of,
    parts_of,
    start,
    with_outputs,
    without,
)
from perdure.ops.channels import cut, matrices, signs
from perdure.ops.infer import Bound, Made, respond, routed
from perdure.ops.masks import constants, maskable
from perdure.ops.rank_one import Stack, bind, gradients, stacked
from perdure.rng import fold
from perdure.train import frozen, minimise

Params = dict[str, Tensor]
Weights = Literal["trained", "random"]
Search = Literal["entropy", "one-shot"]


class Fast(NamedTuple):
    """What belongs to one task alone."""

    task: int  # its index
    labels: Tensor  # (n,) of the rows of its head
    s: Params  # (out,) by the name of the weight
    t: Params  # (in,)
    vectors: Params  # biases, and the scales and shifts of normalisations
    stats: Params


class Ensemble(NamedTuple):
    """The weights that all tasks share, and what each has for itself."""

    seed: int  # the key of what is random
    model: Model  # W and the vectors that every task starts from; no parameters where all come from the key
    parts: tuple[Fast, ...]  # in the order of learning


class Ready(NamedTuple):
    """What exams need."""

    bound: Bound
    labels: Tensor  # (n,) sorted, of all tasks
    stack: Stack | None  # where one gradient tells the task


class Member(nn.Module):
    """A copy of a net that runs on W * (s t^T), for a descent.

    Args:
        net: the user's module.
        params: W and vectors, which it holds in place of its own.
        stats: buffers.
        s, t: scales by the name of their weight.
        still: names of parameters that do not move; they become buffers.
    """

    def __init__(
        self, net: nn.Module, params: Params, stats: Params, s: Params, t: Params, still: Collection[str]
    ) -> None:
        super().__init__()
        self.net, self.names = copy.deepcopy(net), list(s)
        self.s, self.t = (nn.ParameterList(vector.clone() for vector in scale.values()) for scale in (s, t))
        for name, value in {**params, **stats}.items():
            path, _, leaf = name.rpartition(".")
            layer = self.net.get_submodule(path)
            delattr(layer, leaf)
            if name in stats or name in still:
                layer.register_buffer(leaf, value.clone())
            else:
                layer.register_parameter(leaf, nn.Parameter(value.clone()))

    def forward(self, x: Tensor) -> Tensor:
        held = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}
        s, t = (dict(zip(self.names, scale, strict=True)) for scale in (self.s, self.t))
        logits: Tensor = functional_call(self.net, bind({name: held[name] for name in self.names}, s, t), (x,))
        return logits


def published_bytes(net: nn.Module, tasks: int) -> int:
    """Bytes as the SupSup paper counts them: W once; for each task s, t and a bias an output channel; no statistics."""
    weights = [net.get_parameter(name) for name in matrices(net)]
    return 4 * (sum(w.numel() for w in weights) + tasks * sum(2 * w.shape[0] + w.shape[1] for w in weights))


@dataclass(frozen=True, eq=False)
class BatchEnsemble(Method):
    """Rank-one scales a task on one matrix of weights: old tasks never change, and a new one costs two vectors a layer.

    Args:
        weights: W is trained on the first task and then frozen, or random and never trained (then it is not stored).
        fast_lr: learning rate where only s and t are learned: after the first task, and everywhere on random W.
        infer: how a task is found when its id is withheld: by trying all, or by one gradient.
    """

    weights: Weights = "trained"
    fast_lr: float = 1e-2
    infer: Search = "entropy"

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "task"
    states: ClassVar = (Ensemble, Fast, Model)
    isolates: ClassVar = True
    alone: ClassVar = True

    def __post_init__(self) -> None:
        check_words("method", self)
        check_finite("fast_lr", self.fast_lr)

    def init(self, key: int, background: Examples | None = None) -> Ensemble:
        matrices(self.net)
        maskable(self.net)  # constants, which rows of a head begin at, are made of such layers alone
        model = start(self.net, self.fit, key)
        return Ensemble(fold(key, "constants"), model._replace(params={}) if self.weights == "random" else model, ())

    def learn(self, state: Ensemble, task: Task, key: int) -> tuple[Ensemble, Trace]:
        check_classes(task)
        index = index_of(task, [part.task for part in state.parts])
        names, labels = matrices(self.net), first_come(task).to(state.model.labels.device)
        shared = self._shared(state, len(labels))
        first = self.weights == "trained" and not state.parts

        params = cut(shared, self._head, len(labels))
        s = {name: signs(fold(key, "s", name), params[name].shape[0]).to(params[name]) for name in names}
        t = {name: signs(fold(key, "t", name), params[name].shape[1]).to(params[name]) for name in names}
        still = frozen(self.net, self.fit).union([] if first else names)
        member = Member(self.net, params, state.model.stats, s, t, still)

        fit = replace(self.fit, freeze="", moments="fresh", lr=self.fit.lr if first else self.fast_lr)
        begun = {name: param.detach() for name, param in member.named_parameters()}
        model, trace = minimise(member, Model(begun, dict(member.named_buffers()), labels, {}), fit, task, key)

        held = {**model.params, **model.stats}
        s, t = ({name: held[f"{one}.{place}"] for place, name in enumerate(names)} for one in ("s", "t"))
        params, stats = ({name: held[f"net.{name}"] for name in group} for group in (params, state.model.stats))
        fast = Fast(index, labels, s, t, {n: w for n, w in params.items() if n not in names}, stats)
        if first:
            learned = {name: torch.cat([params[name], shared[name][len(params[name]) :]]) for name in names}
            shared = {**shared, **learned}
        if self.weights == "trained":
            state = state._replace(model=state.model._replace(params=shared))
        others = tuple(part for part in state.parts if part.task != index)
        return state._replace(parts=(*others, fast)), trace

    def ready(self, state: Ensemble) -> Ready:
        parts, names = state.parts, matrices(self.net)
        shared = self._shared(state, max((len(part.labels) for part in parts), default=0))
        weights = {name: shared[name] for name in names}

        def own(place: int) -> Model:
            _, labels, s, t, vectors, stats = parts[place]
            return Model({**bind(weights, s, t), **vectors}, stats, labels, {})

        begin = state.model._replace(params=cut(shared, self._head, len(state.model.labels)))
        bound = Bound(begin, Made([part.task for part in parts], own))
        labels = torch.cat([state.model.labels[:0], *(part.labels for part in parts)]).unique()
        if self.infer == "entropy" or not parts:
            return Ready(bound, labels, None)
        others = [{**part.vectors, **part.stats} for part in parts]
        return Ready(bound, labels, stacked(weights, [part.s for part in parts], [part.t for part in parts], others))

    def predict(self, ready: Ready, x: Tensor, id: TaskId | None = None) -> Answer:
        bound, labels, stack = ready
        if id is not None or stack is None:
            return respond(self.net, bound, x, id)
        tasks = torch.tensor(list(bound.tasks), device=x.device)[gradients(self.net, stack, x).argmin(1)]
        return routed(tasks, labels, lambda task, rows: answer(self.net, bound.tasks[task], x[rows]))

    def forget(self, state: Ensemble, index: int) -> Ensemble:
        return state._replace(parts=without(state.parts, index))

    @property
    def _head(self) -> str:
        return head_of(self.net, self.fit)

    def _shared(self, state: Ensemble, rows: int) -> Params:
        """W and the vectors that every task starts from; of the head at least so many rows, new ones random."""
        params, head = state.model.params, parts_of(self._head)
        if params and rows <= len(params[head[0]]):
            return params
        net = with_outputs(self.net, self.fit, max(rows, len(state.model.labels)))
        drawn = tree.to(constants(net, state.seed), state.model.labels.device)
        grown = {name: torch.cat([w, drawn[name][len(w) :]]) if name in head else w for name, w in params.items()}
        return grown or drawn
