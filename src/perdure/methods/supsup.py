"""SupSup: one network of random weights that are never trained, and for every task a mask over them.

    W      signed constants from a key                                  never stored, never moved
    learn  min_s L_t(W * m(s));  M_t <- m(s)                            scores s, straight-through; only M_t is kept
    infer  argmin_i d/d alpha_i  objective(f(x, W * sum_i alpha_i M_i))      alpha = 1/k, when no id is given

The network has more outputs than a task has labels. Those that no label uses are pushed down on a mask's own data only,
so their log-sum-exp (G) tells masks apart, as the entropy of all outputs does (H).

Without ids (NNs) every hundredth batch, and every batch whose loss jumps above what is usual, is asked whose it is
before any step on it, by H: where the best of k masks is hardly better than the rest,

    max_i(-g_i) - log mean_i exp(-g_i) < log(1 + eps)

it is nobody's, and gets a mask of its own; and so it does where the best mask's loss on it is far from usual. The
youngest mask is not judged before it has learned for a while.

Reference: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769.
Deviations: W depends on a key alone, not on how many tasks there will be. Only learned masks take part; fewer than 5
are joined by random ones in NNs, as in the authors' code, but these can never be chosen. The loss as an alarm and as a
check, the probation and moments that each mask keeps are not in the paper. Masks are transferred by weighing drawn
scores with the share (c + 1/2) / (k + 1) of the k masks that keep a weight: their bare mean would leave no score near
its cut. Superposed statistics of normalisation are the mean of the tasks'.
Memory: a key, and for each task a coded mask (at most a bit a weight) and its statistics; in NNs the scores and their
moments too. A task that is forgotten takes all this along, but for its share in the mean of scores where these are
transferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, log, log1p, nan
from typing import ClassVar, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from perdure import tree
from perdure.contract import Answer, Batch, Examples, Fit, Method, Refused, Task, TaskId, Trace, check_words
from perdure.model import (
    Model,
    check_classes,
    extended,
    first_come,
    forward,
    head_of,
    parts_of,
    place_of,
    start,
    with_outputs,
)
from perdure.ops.channels import cut
from perdure.ops.codec import decode, encode
from perdure.ops.infer import Bound, Made, entropy, respond, routed
from perdure.ops.masks import (
    Largest,
    Rule,
    Threshold,
    Through,
    check_constants,
    constants,
    erdos_renyi_budgets,
    learn_masks,
    maskable,
    start_scores,
    uniform_budgets,
    with_spare,
)
from perdure.ops.superpose import SEARCHES, Objective, Stack, bind, counted, gradients, surplus
from perdure.rng import fold
from perdure.train import Descent, Layout, Progress, length, show

Params = dict[str, Tensor]
Part = TypeVar("Part")
PACE = 0.05  # of the running mean of losses
SHOWN = 10  # batches between two signs of life
LEAST = 5  # masks that are compared in NNs, random ones among them
Kind = Literal["threshold", "largest"]
Budget = Literal["uniform", "erdos-renyi"]
Search = Literal["one-shot", "binary", "sweep"]
Told = Literal["entropy", "surplus"]
Transfer = Literal["none", "scores", "masks"]


class Grown(NamedTuple):
    """A mask that may learn on: what its code does not say."""

    scores: Params
    moments: dict[str, Params]  # of its optimiser, by slot
    usual: float  # its loss, a running mean
    steps: int


class Flow(NamedTuple):
    """Where a flow without ids stands."""

    batches: int  # how many came so far
    current: int  # the place of the mask that learns; -1 for none
    labels: Tensor  # (l,) int64, in the order of the rows
    masks: tuple[Grown, ...]
    log: Tensor  # (m, 2) int64: at which batch a mask took over, and which
    asked: Tensor  # (q, 2) float64: at which batch it was asked whose it is, and by how much the best mask stood out


class Supermasks(NamedTuple):
    """Everything known after some tasks."""

    seed: int  # the key of W
    labels: Tensor  # (n,) int64, all that were learned, sorted
    ids: tuple[TaskId, ...]  # in the order of learning
    masks: tuple[Params, ...]  # coded, by name of the weights, but for the head's
    heads: tuple[Params, ...]
    stats: tuple[Params, ...]
    mean: Params  # of scores, also of tasks that were forgotten since; empty unless they are transferred
    flow: Flow | None = None  # in NNs only
    met: int = 0  # tasks in the mean of scores


class Masked(NamedTuple):
    """What exams need: masks on top of one another, and the models they make."""

    stack: Stack
    bound: Bound
    ids: tuple[TaskId, ...]
    labels: Tensor


@dataclass(frozen=True, eq=False)
class SupSup(Method):
    """A mask a task over random weights: nothing is forgotten, and the task is recognised from its data.

    Args:
        outputs: of the network, s; those beyond a task's labels make tasks easier to tell apart.
        rule: which weights a mask keeps: those whose score is at least 0, or the largest in size, as many as the
            budget says (edge-popup).
        budget: of each layer under `largest`: the same share of all, or in proportion to its inputs and outputs.
        density: the share that a uniform budget keeps (0 to 1); e of an Erdos-Renyi budget, e (in + out) weights.
        refresh: steps between two exact searches for the cut-off of `largest`.
        infer: how a task is found: by one gradient, by halving the candidates, or by trying all.
        told: what it is told by at an exam: the entropy of all outputs, or the outputs that no label uses
            (the entropy where there are none).
        pool: inputs in a row that are known to share their task and are judged together.
        transfer: where scores start: random, or the mean of earlier tasks' scores or masks.
        most: masks there may be; no limit when not given. In NNs examples that ask for one more are then left out.
        eps: by how much the best mask must stand out to be taken for a batch's own (NNs).
        every: batches between two such questions, and those that the youngest mask learns before it is judged (NNs).
        jump: nats by which a loss exceeds what is usual for the mask when the question is put at once (NNs).
    """

    fit: Fit = Fit(optimizer="rmsprop", lr=1e-4)
    outputs: int = 100
    rule: Kind = "threshold"
    budget: Budget = "uniform"
    density: float = 0.5
    refresh: int = 10
    infer: Search = "one-shot"
    told: Told = "surplus"
    pool: int = 1
    transfer: Transfer = "none"
    most: int | None = None
    eps: float = 0.125
    every: int = 100
    jump: float = 1.0

    memory: ClassVar = "task"
    states: ClassVar = (Supermasks, TaskId, Flow, Grown)
    isolates: ClassVar = True

    def __post_init__(self) -> None:
        check_words("method", self)
        for name in ("outputs", "refresh", "pool", "most", "every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise Refused(f"method.{name} is {value}; it must be at least 1")
        for name in ("eps", "jump"):
            if not 0 < (value := getattr(self, name)) < inf:
                raise Refused(f"method.{name} is {value}; it must be positive")
        if not 0 < self.density < (1 if self.budget == "uniform" else inf):
            raise Refused(f"method.density is {self.density}; a share lies between 0 and 1, and e is positive")

    @property
    def pools(self) -> bool:  # type: ignore[override]  # as its options have it
        """Whether an answer may depend on the other inputs of its batch."""
        return self.pool > 1

    @cached_property
    def wide(self) -> nn.Module:
        """The network with all its outputs."""
        return with_outputs(self.net, self.fit, self.outputs)

    def init(self, key: int, background: Examples | None = None) -> Supermasks:
        check_constants(self.net, self.fit)
        maskable(self.net)
        return Supermasks(fold(key, "constants"), torch.empty(0, dtype=torch.int64), (), (), (), (), {})

    def vet(self, tasks: Sequence[Task]) -> None:
        ids, labels = dict[int, TaskId](), torch.empty(0, dtype=torch.int64)
        for task in tasks:
            if task.id is None:
                labels = extended(labels, task)
                self.check(labels)
            else:
                ids.pop(task.id.index, None)
                self._admit(list(ids.values()), task)
                ids[task.id.index] = task.id

    def learn(self, state: Supermasks, task: Task, key: int) -> tuple[Supermasks, Trace]:
        if task.id is None:
            return Allocation(self, state, task, key).learn()
        if state.flow is not None:
            raise Refused("a flow without ids was learned, and its masks belong to no task: begin a new life for tasks")
        others = [place for place, id in enumerate(state.ids) if id.index != task.id.index]
        state, labels = only(state, others), first_come(task).to(state.labels.device)
        self._admit(state.ids, task)
        model = Model(self._first_scores(state, fold(key, "scores")), self.fresh(state)[1], labels, {})
        descent, through = self.begin(state, model, replace(self.fit, moments="fresh"), key)
        masks = learn_masks(through, descent, task.examples)
        state = self._remember(state, through.scores)
        return self.add(state, TaskId(task.id.index, labels), masks, descent.model.stats), descent.trace

    def begin(self, state: Supermasks, model: Model, fit: Fit, key: int) -> tuple[Descent, Through]:
        """What learns a mask: `model` holds its scores, their moments, and the labels of the first outputs."""
        weights, _ = self.fresh(state)
        layout = Layout(weights)
        moved = layout.flat({name: model.params.get(name, torch.ones_like(w)) for name, w in weights.items()})
        still = {name: torch.zeros_like(w) for name, w in weights.items() if name not in model.params}
        moments = {slot: kept if "" in kept else {**still, **kept} for slot, kept in model.moments.items()}
        whole = Model(weights, model.stats, with_spare(model.labels, self.outputs), moments)
        descent = Descent(self.wide, whole, fit, key, moved=moved)
        return descent, Through(descent, layout.flat(weights), model.params, self.make_rule())

    def fresh(self, state: Supermasks) -> tuple[Params, Params]:
        """W and the buffers that every task starts from, where the state is."""
        both = constants(self.wide, state.seed), start(self.wide, self.fit, 0).stats
        weights, stats = tree.to(both, state.labels.device)
        return weights, stats

    def add(self, state: Supermasks, id: TaskId, masks: Params, stats: Params) -> Supermasks:
        """The state with a mask more, coded."""
        codes = {name: encode(mask) for name, mask in masks.items()}
        head = {name: codes.pop(name) for name in parts_of(head_of(self.wide, self.fit)) if name in codes}
        return state._replace(
            labels=torch.cat([state.labels, id.classes]).unique(),
            ids=(*state.ids, id),
            masks=(*state.masks, codes),
            heads=(*state.heads, head),
            stats=(*state.stats, stats),
        )

    def ready(self, state: Supermasks) -> Masked:
        (weights, stats), k = self.fresh(state), len(state.ids)
        codes = [{**mask, **head} for mask, head in zip(state.masks, state.heads, strict=True)]
        bits = {
            name: torch.stack([decode(code[name], weights[name].numel()) for code in codes])
            for name in (codes[0] if k else ())
        }
        counts = {name: counted(packed, weights[name].shape) for name, packed in bits.items()}
        stack, head = Stack(weights, bits, counts, state.stats), head_of(self.wide, self.fit)

        def own(place: int) -> Model:
            labels = state.ids[place].classes
            return Model(bind(stack, place), state.stats[place], labels, {})

        rows = len(start(self.net, self.fit, 0).labels)
        begin = Model(cut(weights, head, rows), stats, torch.arange(rows).to(state.labels), {})
        return Masked(stack, Bound(begin, Made([id.index for id in state.ids], own)), state.ids, state.labels)

    def predict(self, ready: Masked, x: Tensor, id: TaskId | None = None) -> Answer:
        models = ready.bound.tasks
        if not models or (id is not None and id.index not in models):
            return respond(self.wide, ready.bound, x, id)
        if id is not None:
            return self.own(models[id.index], x)
        places = SEARCHES[self.infer](self.wide, ready.stack, x, self.objective(ready.ids), self.pool)
        tasks = torch.tensor([id.index for id in ready.ids], device=x.device)[places]
        return routed(tasks, ready.labels, lambda task, rows: self.own(models[task], x[rows]))

    def own(self, model: Model, x: Tensor) -> Answer:
        """The answer of one task, in doubt as its own objective is high, which no other task has a part in."""
        outputs = forward(self.wide, model, x)  # as many for every task: what one task answers never changes a bit
        logits = outputs[:, : len(model.labels)]
        return Answer(logits, model.labels, doubt=self.objective([TaskId(0, model.labels)])(outputs))

    def forget(self, state: Supermasks, index: int) -> Supermasks:
        if state.flow is not None:
            raise Refused("a flow without ids has masks, but no task to forget; roll back to a state before it")
        place, k = place_of(index, [id.index for id in state.ids]), len(state.ids)
        return only(state, [*range(place), *range(place + 1, k)])

    def _admit(self, ids: Sequence[TaskId], task: Task) -> None:
        """Raises Refused where a task cannot have a mask beside those of others."""
        assert task.id is not None
        self.check(task.id.classes)
        if self.objective([*ids, task.id]) is entropy:
            check_classes(task)  # spare outputs tell it from others; entropy would take it for the surest of all
        if self.most is not None and len(ids) >= self.most:
            raise Refused(f"all {self.most} masks are in use; raise method.most, or leave it out for no limit")

    def check(self, labels: Tensor) -> None:
        """Raises Refused where the network has fewer outputs than labels (l,)."""
        if len(labels) > self.outputs:
            raise Refused(
                f"a task has {len(labels)} labels, and the network {self.outputs} outputs; raise method.outputs"
            )

    def objective(self, ids: Sequence[TaskId]) -> Objective:
        """What is low where a network is sure, once the tasks of these ids are learned."""
        most = max(len(id.classes) for id in ids)
        return surplus(most) if self.told == "surplus" and most < self.outputs else entropy

    def make_rule(self) -> Rule:
        """How scores become masks."""
        if self.rule == "threshold":
            return Threshold()
        weights = dict(self.wide.named_parameters())
        shapes = {name: weights[name].shape for name in maskable(self.wide)}
        budgets = uniform_budgets if self.budget == "uniform" else erdos_renyi_budgets
        return Largest(budgets(shapes, self.density), self.refresh)

    def _first_scores(self, state: Supermasks, key: int) -> Params:
        """Where scores start: drawn; the mean of earlier ones; or drawn, weighed by the masks so far."""
        drawn, k = self.draw(state, key), len(state.ids)
        if self.transfer == "scores" and state.mean:
            return dict(state.mean)
        if self.transfer == "masks" and k:
            shares = {name: (kept + 0.5) / (k + 1) for name, kept in self.ready(state).stack.counts.items()}
            if self.rule == "largest":
                return {name: score * shares[name] for name, score in drawn.items()}
            return {name: score.abs() * (2 * shares[name] - 1) for name, score in drawn.items()}
        return drawn

    def draw(self, state: Supermasks, key: int) -> Params:
        """Scores at random, where the state is."""
        drawn: Params = tree.to(start_scores(self.wide, key), state.labels.device)
        return drawn

    def _remember(self, state: Supermasks, scores: Params) -> Supermasks:
        """The state with the scores of one more task in their running mean, if it is wanted."""
        if self.transfer != "scores":
            return state
        before = state.mean or {name: torch.zeros_like(score) for name, score in scores.items()}
        mean = {name: before[name].lerp(score, 1 / (state.met + 1)) for name, score in scores.items()}
        return state._replace(mean=mean, met=state.met + 1)


class Allocation:
    """Learns a chunk of a flow without ids as it comes: every batch by the mask whose it is.

    Args:
        method: whose masks they are.
        state: before the chunk.
        task: the chunk.
        key: of the module's own noise.
    """

    def __init__(self, method: SupSup, state: Supermasks, task: Task, key: int) -> None:
        if method.transfer != "none":
            raise Refused("method.transfer is about tasks, and a flow without ids has none; leave it out")
        if state.ids and state.flow is None:
            raise Refused(
                "tasks were learned by their ids, and a flow without ids cannot go on with their masks: "
                "begin a new life for it"
            )
        none = state.labels[:0]
        flow = state.flow or Flow(0, -1, none, (), none.view(0, 2), none.view(0, 2).double())
        labels = extended(flow.labels, task)
        method.check(labels)
        ids = tuple(TaskId(place, labels) for place in range(len(state.ids)))
        self.method, self.key, self.examples = method, key, task.examples.materialise(none.device)
        self.fit = replace(method.fit, moments="kept", epochs=1)
        self.state, self.flow = state._replace(ids=ids), flow._replace(labels=labels)
        self.losses: list[Tensor] = []
        self.pair: tuple[Descent, Through] | None = None  # what learns the current mask
        if flow.current >= 0:
            self._open(flow.current)

    def learn(self) -> tuple[Supermasks, Trace]:
        """The state after the chunk, and the loss of each batch before its step."""
        size, _ = length(self.fit, n := len(self.examples))
        for step, rows in enumerate(batches := torch.arange(n, device=self.flow.log.device).split(size), 1):
            self._take(self.examples.take(rows))
            self.flow = self.flow._replace(batches=self.flow.batches + 1)
            if step % SHOWN == 0:
                show(Progress(step, len(batches), self.losses[-1].item() if self.losses else nan))
        self._close()
        return self.state._replace(flow=self.flow), Trace(torch.stack(self.losses) if self.losses else torch.empty(0))

    def _take(self, batch: Batch) -> None:
        """Asks whose a batch is when it is time to, or when its loss is not usual; then a step by that mask."""
        asked = self.pair is None or (self.flow.batches % self.method.every == 0 and not self._young())
        if asked:
            self._turn_to(self._whose(batch))
        if self.pair is None:
            return
        descent, _ = self.pair
        stats = [buffer.clone() for buffer in descent.net.buffers()]
        loss = self._loss(batch)
        if not asked and not self._young() and loss.item() > self._mask.usual + self.method.jump:
            for buffer, kept in zip(descent.net.buffers(), stats, strict=True):
                buffer.copy_(kept)  # as if it had never seen the batch
            self._turn_to(self._whose(batch))
            if self.pair is None:
                return
            loss = self._loss(batch)
        descent, through = self.pair
        descent.step(through.back(descent.grad(loss)))
        self.losses.append(loss.detach())
        usual = self._mask.usual if self._mask.steps else loss.item()
        self._mask = self._mask._replace(usual=usual + PACE * (loss.item() - usual), steps=self._mask.steps + 1)

    def _loss(self, batch: Batch) -> Tensor:
        assert self.pair is not None
        descent, through = self.pair
        through.bind()
        return cross_entropy(descent(batch.x), descent.targets(batch.y))

    def _whose(self, batch: Batch) -> int:
        """The place of the mask whose a batch is, or of a new one; -1 where there may be no more."""
        self._close()
        k, method, state = len(self.state.ids), self.method, self.state
        if k:
            for place in range(k, LEAST):
                masks = method.make_rule().masks(method.draw(state, fold(state.seed, "random", place)))
                state = method.add(state, state.ids[0], masks, state.stats[0])
            stack = method.ready(state).stack
            pull = -gradients(method.wide, stack, batch.x, entropy, pool=len(batch.x))[0]
            best = int(pull.argmax())
            gap = float(pull[best] - pull.logsumexp(0)) + log(len(pull))
            asked = torch.tensor([[self.flow.batches, gap]]).to(self.flow.asked)
            self.flow = self.flow._replace(asked=torch.cat([self.flow.asked, asked]))
            if best < k and gap >= log1p(method.eps) and self._fits(stack, best, batch):
                return best
        return k if method.most is None or k < method.most else -1

    def _fits(self, stack: Stack, place: int, batch: Batch) -> bool:
        """Whether the loss of a batch is about what is usual for a mask."""
        model = Model(bind(stack, place), stack.stats[place], self.flow.labels, {})
        targets = (batch.y[:, None] == self.flow.labels).long().argmax(1)
        loss = cross_entropy(forward(self.method.wide, model, batch.x), targets)
        return loss.item() <= self.flow.masks[place].usual + self.method.jump

    def _turn_to(self, place: int) -> None:
        """Lets another mask learn."""
        if place == self.flow.current and (place < 0 or self.pair is not None):
            return
        self._close()
        self.pair = None
        if place == len(self.state.ids):
            scores = self.method.draw(self.state, fold(self.state.seed, "scores", place))
            masks, (_, stats) = self.method.make_rule().masks(scores), self.method.fresh(self.state)
            self.state = self.method.add(self.state, TaskId(place, self.flow.labels), masks, stats)
            self.flow = self.flow._replace(masks=(*self.flow.masks, Grown(scores, {}, inf, 0)))
        turn = torch.tensor([[self.flow.batches, place]]).to(self.flow.log)
        self.flow = self.flow._replace(current=place, log=torch.cat([self.flow.log, turn]))
        if place >= 0:
            self._open(place)

    def _open(self, place: int) -> None:
        grown = self.flow.masks[place]
        model = Model(grown.scores, self.state.stats[place], self.flow.labels, grown.moments)
        self.pair = self.method.begin(self.state, model, self.fit, fold(self.key, place))

    def _close(self) -> None:
        """Writes what the current mask has learned into the state."""
        if self.pair is None:
            return
        descent, through = self.pair
        place, scores = self.flow.current, {name: score.clone() for name, score in through.scores.items()}
        moments = {
            slot: {name: kept[name] for name in kept if not name or name in scores}
            for slot, kept in descent.moments.items()
        }
        self._mask = self._mask._replace(scores=scores, moments=moments)
        last = self.method.add(self.state, self.state.ids[place], through.rule.masks(scores), descent.model.stats)
        masks, heads, stats = (
            (*parts[:place], parts[-1], *parts[place + 1 : -1]) for parts in (last.masks, last.heads, last.stats)
        )
        self.state = self.state._replace(masks=masks, heads=heads, stats=stats)

    def _young(self) -> bool:
        """Whether the current mask is the youngest, and has not learned long enough to be judged."""
        return self.flow.current == len(self.state.ids) - 1 and self._mask.steps < self.method.every

    @property
    def _mask(self) -> Grown:
        return self.flow.masks[self.flow.current]

    @_mask.setter
    def _mask(self, grown: Grown) -> None:
        place, masks = self.flow.current, self.flow.masks
        self.flow = self.flow._replace(masks=(*masks[:place], grown, *masks[place + 1 :]))


def only(state: Supermasks, places: Sequence[int]) -> Supermasks:
    """The state of one who learned only the tasks at these places: no mask depends on another."""

    def pick(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(parts[place] for place in places)

    ids, masks, heads, stats = pick(state.ids), pick(state.masks), pick(state.heads), pick(state.stats)
    labels = torch.cat([state.labels[:0], *(id.classes for id in ids)]).unique()
    return state._replace(labels=labels, ids=ids, masks=masks, heads=heads, stats=stats)
