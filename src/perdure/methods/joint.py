"""Joint: a fresh network, trained on everything seen so far each time a task is added.

    theta_t = argmin_theta sum_{k<=t} L_k(theta), started at theta_0

The upper bound of the field: what one network can do when it may see all tasks at once.

Reference: R. Caruana, "Multitask learning", Machine Learning 1997.
Deviations: none. `fit.epochs` passes over all data so far, or `fit.steps` for each task so far: at task t it takes as
    many updates as one-after-the-other learning took for all t. Where only the task's own logits compete (GG), those
    of an example compete within its own task. Not in NNs: examples flow by once and in order there, so one pass over
    all of them is finetune again, and a second pass is what the scenario rules out.
Memory: data, the network, its start values and every example as it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Scale, Scenario, Task, TaskId, Trace
from perdure.data import Concat
from perdure.model import Model, answer, grow, start
from perdure.ops.memory import Memory, keep
from perdure.ops.rivals import Sets, enlist, rivals
from perdure.train import STEPS, Descent, competing


class JointState(NamedTuple):
    """A network, its start values and all data so far."""

    model: Model
    first: Model  # the start values, with rows for all labels so far
    data: tuple[Memory, ...]  # one a task
    sets: Sets  # the sets of labels that compete among themselves; none where all labels compete
    which: tuple[int, ...]  # the set of each task


@dataclass(frozen=True, eq=False)
class Joint(Method):
    """All data so far, from scratch, for every task."""

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "data"
    rehearses: ClassVar = True
    states: ClassVar = (JointState, Model, Memory, Scale)

    def init(self, key: int, background: Examples | None = None) -> JointState:
        model = start(self.net, self.fit, key)
        return JointState(model, model, (), (), ())

    def learn(self, state: JointState, task: Task, key: int) -> tuple[JointState, Trace]:
        first = grow(self.net, self.fit, state.first, task)
        data = (*state.data, keep(task.examples, first.labels.device))
        sets, own = enlist(state.sets, competing(self.fit, task))
        which = (*state.which, own)
        classes, bias = rivals(first.labels, sets)
        fit = replace(self.fit, moments="fresh")
        if fit.epochs is None:
            fit = replace(fit, steps=(fit.steps or STEPS) * len(data))
        descent = Descent(self.net, first, fit, key, classes)
        owners = torch.cat([torch.full_like(memory.labels, place) for memory, place in zip(data, which, strict=True)])
        for batch in descent.batches(Concat([memory.examples for memory in data])):
            logits = descent(batch.x)
            if bias is not None:
                logits = logits + bias[owners[batch.rows]]
            descent.follow(F.cross_entropy(logits, batch.y))
        return JointState(descent.model, first, data, sets, which), descent.trace

    def predict(self, ready: JointState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
