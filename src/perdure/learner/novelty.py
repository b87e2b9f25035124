"""Known, drifted or new: whether inputs look like a learned task, like one whose data has changed, or like none.

A method doubts each input: how little it looks like the task it was taken for, low where it is sure. What doubt is
usual is found on exams, examples that were never learned. Of the n of them that are of task t, or were taken for it,

    u_t    = the ceil(0.95 (n + 1))-th smallest doubt        infinite for n < 19: so few say nothing
    fits   : doubt <= u_t                                    t: the task that an input was taken for

so that of inputs like the exams at least 95 % fit, whatever the distribution of doubt. Of a batch of m inputs k do not
fit. Had they come like the exam of task t, of whose a examples e do not fit,

    K_t ~ BetaBinomial(m, 1 + e, 1 + a - e)

    new      where fewer than half fit, 1 - k / m < 0.5
    known    else, where P(K_t >= k) >= 0.01 for a task t that some of them were taken for
    drifted  else

Where a method tells no tasks apart, all exams are one group, and every learned task may be the t of K_t. A batch may be
of several tasks: what counts is how many of its inputs fit the task that each was taken for. A single input that does
not fit is new. What a method takes for its own cannot be found here: see its precision and recall.

References: V. Vovk, A. Gammerman, G. Shafer, "Algorithmic learning in a random world", 2005 (u_t); M. Wortsman et al.,
"Supermasks in superposition", 2020, arXiv 2006.14769 (the doubt of SupSup).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, inf
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from perdure.contract import Answer, Refused

USUAL = 0.95  # share of inputs like an exam that fit
NEW = 0.5  # a batch of which a smaller share fits is new
CHANCE = 0.01  # of calling a batch that is like an exam drifted

Verdict = Literal["known", "drifted", "new"]


class Usual(NamedTuple):
    """What is usual for one task."""

    limit: float  # the doubt up to which an input that is taken for it fits
    misfits: int  # examples of its exam that do not fit
    asked: int  # examples of its exam


class Relation(NamedTuple):
    """How a batch of inputs stands to what was learned."""

    verdict: Verdict
    task: int | None  # that most of them were taken for; None where the method tells none apart, or nothing was learned
    share: float  # that fits


def doubt(answer: Answer) -> Tensor:
    """(B,) float64, how little each input looks like its task: as the answer says, or else its entropy."""
    if answer.doubt is not None:
        return answer.doubt
    logs = answer.logits.double().log_softmax(1)
    return -(logs.exp() * logs.nan_to_num(neginf=0.0)).sum(1)  # labels of other tasks have a logit of -inf


def calibrate(own: Tensor, doubt: Tensor, task: Tensor | None = None) -> dict[int, Usual]:
    """What is usual, by task index, from examples of all exams.

    Args:
        own: (n,) int64, the index of the task that each is of.
        doubt: (n,) of each, asked as it will be asked.
        task: (n,) int64, the task that each was taken for; None where the method tells none apart.
    """
    limits = {}
    for index in own.unique().tolist():
        group = doubt if task is None else doubt[(own == index) | (task == index)]
        limits[index] = Usual(_limit(group), 0, 0)
    fit = fits(doubt, task, limits)
    return {
        index: Usual(usual.limit, int((~fit[own == index]).sum()), int((own == index).sum()))
        for index, usual in limits.items()
    }


def fits(doubt: Tensor, task: Tensor | None, usual: Mapping[int, Usual]) -> Tensor:
    """(B,) bool: whether each input fits the task it was taken for, or, where no task is told, any.

    Args:
        doubt: (B,)
        task: (B,) int64, or None.
        usual: by task index. All fits a task of which nothing is known, and nothing where no task is known.
    """
    if not usual:
        return torch.zeros_like(doubt, dtype=torch.bool)
    if task is None:
        return doubt <= max(known.limit for known in usual.values())
    tasks, places = task.unique(return_inverse=True)
    limits = [usual[index].limit if index in usual else inf for index in tasks.tolist()]
    return doubt <= torch.tensor(limits, dtype=doubt.dtype, device=doubt.device)[places]


def relation(doubt: Tensor, task: Tensor | None, usual: Mapping[int, Usual]) -> Relation:
    """How a batch stands to what was learned, by the rule above.

    Args:
        doubt, task, usual: as in `fits`.

    Raises:
        Refused: the batch is empty.
    """
    if not len(doubt):
        raise Refused("there are no inputs to compare with what was learned; give at least one")
    fit = fits(doubt, task, usual)
    share, misfits = float(fit.double().mean()), int((~fit).sum())
    nearest = None if task is None or not usual else int(task.mode().values)
    if share < NEW:
        return Relation("new", nearest, share)
    those = usual if task is None else task.unique().tolist()
    chance = max(_chance(misfits, len(fit), usual.get(index, Usual(inf, 0, 0))) for index in those)
    return Relation("known" if chance >= CHANCE else "drifted", nearest, share)


def _limit(doubt: Tensor) -> float:
    """The doubt (n,) that another example of the same kind exceeds with a chance of at most 1 - USUAL."""
    place = ceil(round(USUAL * (len(doubt) + 1), 9))  # 0.95 * 20 is not 19 in floating point
    return float(doubt.sort().values[place - 1]) if place <= len(doubt) else inf


def _chance(misfits: int, inputs: int, usual: Usual) -> float:
    """P(K >= misfits) among so many inputs that are like the exam of a task."""
    K = torch.arange(misfits, inputs + 1, dtype=torch.float64)
    a, b = torch.tensor([1.0 + usual.misfits, 1.0 + usual.asked - usual.misfits], dtype=torch.float64)
    ways = torch.lgamma(torch.tensor(inputs + 1.0)) - torch.lgamma(K + 1) - torch.lgamma(inputs - K + 1)
    return float((ways + _beta(K + a, inputs - K + b) - _beta(a, b)).exp().sum())


def _beta(a: Tensor, b: Tensor) -> Tensor:
    """The logarithm of the beta function."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
