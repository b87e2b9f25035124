"""FearNet: what is new is kept as it came, and asleep the network learns it among what it dreams of the old.

    HC     beta_k = 1 / (eps + min_j |x - u_kj|),  P_HC(k) = beta_k / sum beta      u_kj the recent examples of class k
    mPFC   loss = CE(f(x), y) + sum_{j<L} lam_j |h_j - d_j|^2        f the net, h_0 = x, h_j the input of its layer j;
           d_j = relu(A_j d_{j+1} + b_j),  d_L = h_L                 the decoder, without relu where j = 0
           h_L of class k ~ N(mu_k, Sigma_k)                         the encodings, once mPFC has learned
    dream  x~ = decoder(z), z ~ N(mu_k, Sigma_k): for every class of mPFC as many as one of HC has on average
    BLA    P(A | x) = sigmoid a(x), whether x is HC's                a learns HC from dreams, after each task
    sleep  every `sleep` tasks mPFC learns on HC and dreams, mu and Sigma are those of both, and HC is emptied
    label  argmax of P_HC, where P(A) / (1 - P(A)) max P_HC > max P_mPFC, and of P_mPFC elsewhere

The odds of BLA are exp a(x), so that label is the argmax of max(a + log P_HC, log P_mPFC): these are the logits. The
first task is base knowledge: mPFC learns it at once. Made for features of a frozen encoder.

Reference: R. Kemker, C. Kanan, "FearNet: brain-inspired model for incremental learning", 2017, arXiv 1711.10563.
Deviations: the hidden layers are those of `net`, a chain of Linear layers, and the decoder mirrors their widths with
    relu between; the paper has elu. BLA has the same hidden layers, and starts anew each time. Base knowledge, sleep
    and BLA all follow `fit`; the paper has lengths of its own for each. In GG all labels compete in training, and the
    id narrows the answer. What is asked before the first task, mPFC answers.
Memory: data, the recent examples as they are stored, until a sleep leaves of them a mean and a covariance a class (d +
    d (d + 1) / 2 numbers, or 2 d, for an encoding of d units); beside them two networks and the decoder.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.contract import Answer, Examples, Fit, Method, Refused, Scale, Scenario, Task, TaskId, Trace, check_finite
from perdure.data import Arrays, Concat, blocks
from perdure.model import Model, first_come, forward, grow, head_of, narrow, start, with_outputs
from perdure.nets.mirror import Mirror
from perdure.ops.memory import Memory, keep
from perdure.rng import fold, normal, permutation
from perdure.train import BLOCK, Descent, length, minimise


class Gaussians(NamedTuple):
    """How the encodings of each class are distributed."""

    labels: Tensor  # (C,) int64
    mu: Tensor  # (C, d)
    sigma: Tensor  # (C, d (d + 1) / 2), the lower triangle of each covariance; (C, d) where it is diagonal


class FearState(NamedTuple):
    """Both memories, and who judges between them."""

    model: Model  # mPFC: the net and its decoder
    classes: Gaussians  # those that mPFC knows; none before the first task
    recent: Memory | None  # HC; none where it is empty
    gate: Model  # BLA, with a row for mPFC and one for HC
    awake: int  # tasks since the last sleep


class FearReady(NamedTuple):
    """What an exam needs: HC class after class."""

    net: Mirror  # mPFC
    labels: Tensor  # (n,) int64, its own
    gate: Model  # BLA
    u: Tensor  # (M, D) HC
    recent: Tensor  # (K,) int64, its labels
    counts: tuple[int, ...]  # (K,) examples of each


def holding(net: Mirror, model: Model) -> Mirror:
    """A copy of the net that holds a model, in evaluation mode."""
    net = copy.deepcopy(net).to(model.labels.device).eval().requires_grad_(False)
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        tensor.data = {**model.params, **model.stats}[name]
    return net


def gaussians(z: Tensor, labels: Tensor, diagonal: bool) -> Gaussians:
    """The mean and the covariance of the encodings z (N, d) of each class, over its n examples (divided by n).

    Classes are in the order in which they first come, so that what is drawn does not hang on their names.
    """
    names, d = first_come(Task(Arrays(z, labels), None)), z.shape[1]
    mu, sigma = [], []
    lower = torch.tril_indices(d, d, device=z.device)
    for own in (z[labels == name].double() for name in names):
        away = own - own.mean(0)
        mu.append(own.mean(0))
        sigma.append(away.square().mean(0) if diagonal else (away.T @ away / len(own))[lower[0], lower[1]])
    return Gaussians(names, torch.stack(mu).to(z), torch.stack(sigma).to(z))


def drawn(classes: Gaussians, n: int, key: int, diagonal: bool) -> tuple[Tensor, Tensor]:
    """n encodings of every class (C n, d), class after class, and their labels."""
    (C, d), mu, sigma = classes.mu.shape, classes.mu.double(), classes.sigma.double()
    noise = normal(key, C * n * d).view(C, n, d).to(mu.device)
    if diagonal:
        z = noise * sigma.sqrt()[:, None]
    else:
        a, b = torch.tril_indices(d, d, device=mu.device)
        whole = mu.new_zeros(C, d, d)
        whole[:, a, b] = whole[:, b, a] = sigma
        values, vectors = torch.linalg.eigh(whole)  # a root for any covariance: of few examples it has no inverse
        z = noise @ (vectors * values.clamp(min=0).sqrt()[:, None]).mT
    return (z + mu[:, None]).flatten(0, 1).to(classes.mu), classes.labels.repeat_interleave(n)


def nearness(x: Tensor, u: Tensor, counts: Sequence[int], eps: float) -> Tensor:
    """(B, K) log P_HC for x (B, D) among K classes, of which u (M, D) has `counts` examples, one after the other."""
    found, u = [], u.double()  # in single precision a copy would be some way off
    for part in x.double().split(max(1, 8 * BLOCK // len(u))):
        every = torch.cdist(part, u).split(list(counts), 1)
        found.append(torch.stack([distances.amin(1) for distances in every], 1))
    return (-(eps + torch.cat(found)).log()).log_softmax(1).to(x)


@dataclass(frozen=True, eq=False)
class FearNet(Method):
    """A memory of recent examples beside a network that dreams.

    Args:
        sleep: tasks between sleeps, those after base knowledge; with 1 it sleeps after each of them.
        lam0: weight of the reconstruction error of the inputs (a sum over them).
        lam: weight of that of every hidden layer.
        eps: what is added to every distance of HC, so that none is zero.
        diagonal: keep the variances of a class alone, not its covariances.
    """

    sleep: int = 10
    lam0: float = 1.0
    lam: float = 0.1
    eps: float = 1e-3
    diagonal: bool = False

    scenarios: ClassVar = frozenset(
        {Scenario.GG, Scenario.GNS, Scenario.GNU}
    )  # base knowledge is a task, and so is a day
    memory: ClassVar = "data"
    rehearses: ClassVar = True
    states: ClassVar = (FearState, Model, Gaussians, Memory, Scale)

    def __post_init__(self) -> None:
        if self.sleep < 1:
            raise Refused(f"method.sleep is {self.sleep}; it must be at least 1 (1 sleeps after every task)")
        for name in ("lam0", "lam"):
            check_finite(name, getattr(self, name))
        if not 0 < self.eps < float("inf"):
            raise Refused(
                f"method.eps is {self.eps}; it must be finite and positive, or a copy would be infinitely near"
            )

    @cached_property
    def mirror(self) -> Mirror:
        """The net and its decoder."""
        layers = sum(isinstance(layer, nn.Linear) for layer in self.net.modules()) - 1
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # the same decoder each time
            return Mirror(self.net, head_of(self.net, self.fit), [self.lam0, *[self.lam] * (layers - 1)])

    @cached_property
    def mirrored(self) -> Fit:
        """`fit` with the names that layers have in it."""
        freeze = ",".join(f"net.{part.strip()}" for part in self.fit.freeze.split(",") if part.strip())
        return replace(self.fit, head=f"net.{head_of(self.net, self.fit)}".rstrip("."), freeze=freeze)

    @cached_property
    def judge(self) -> nn.Module:
        """BLA: the hidden layers of the net, and a row for each memory."""
        return with_outputs(self.net, self.fit, 2)

    def init(self, key: int, background: Examples | None = None) -> FearState:
        model, gate = start(self.mirror, self.mirrored, key), start(self.judge, self.fit, fold(key, "gate"))
        d = self.mirror.widths[-1]
        wide = d if self.diagonal else d * (d + 1) // 2
        none = Gaussians(torch.zeros(0, dtype=torch.int64), torch.zeros(0, d), torch.zeros(0, wide))
        return FearState(model, none, None, gate, 0)

    def learn(self, state: FearState, task: Task, key: int) -> tuple[FearState, Trace]:
        length(self.fit, len(task.examples))  # refuses a task that is empty
        where = state.model.labels.device
        if not len(state.classes.labels):
            self._check(task.examples)
            return self._consolidated(state, keep(task.examples, where).examples, key)
        recent = keep(task.examples, where)
        if state.recent is not None:
            recent = keep(Concat([state.recent.examples, recent.examples]), where)
        state = state._replace(recent=recent, awake=state.awake + 1)
        dreams = self._dreams(state, key)
        if state.awake == self.sleep:
            return self._consolidated(state, _mixed(recent, dreams, dreams.labels, recent.labels, key), key)
        sides = torch.zeros_like(dreams.labels), torch.ones_like(recent.labels)
        lesson = Task(_mixed(recent, dreams, *sides, key), None)
        fit, key = replace(self.fit, moments="fresh"), fold(key, "gate")
        gate, trace = minimise(self.judge, start(self.judge, fit, key), fit, lesson, key)
        return state._replace(gate=gate), trace

    def _check(self, examples: Examples) -> None:
        """Refuses inputs that the decoder could not make."""
        one = examples.raw(torch.zeros(1, dtype=torch.int64, device=examples.labels.device))
        numbers, wide = one.numel(), self.mirror.widths[0]
        if numbers != wide:
            raise Refused(f"an input has {numbers} numbers, but the first Linear layer of the net takes {wide}")

    def _consolidated(self, state: FearState, examples: Examples, key: int) -> tuple[FearState, Trace]:
        """mPFC after learning some examples, with HC empty."""
        model = grow(self.mirror, self.mirrored, state.model, Task(examples, None))
        descent = Descent(self.mirror, model, self.mirrored, key)
        for batch in descent.batches(examples):
            out = descent(batch.x)  # (B, n + 1)
            descent.follow(F.cross_entropy(out[:, :-1], batch.y) + out[:, -1].mean())
        model = descent.model
        net = holding(self.mirror, model)
        with torch.no_grad():
            z = torch.cat([net.both(x)[1][-1] for x, *_ in blocks(examples)])
        classes = gaussians(z, examples.labels, self.diagonal)
        return state._replace(model=model, classes=classes, recent=None, awake=0), descent.trace

    def _dreams(self, state: FearState, key: int) -> Arrays:
        """As many pseudo-examples of every class of mPFC as a class of HC has on average, x (N, D)."""
        assert state.recent is not None
        labels = state.recent.labels
        z, y = drawn(state.classes, ceil(len(labels) / len(labels.unique())), fold(key, "dreams"), self.diagonal)
        net = holding(self.mirror, state.model)
        with torch.no_grad():
            return Arrays(net.down(z)[0], y)

    def ready(self, state: FearState) -> FearReady:
        net, labels = holding(self.mirror, state.model), state.model.labels
        if state.recent is None:
            return FearReady(net, labels, state.gate, torch.zeros(0), labels[:0], ())
        recent, counts = state.recent.labels.unique(return_counts=True)
        x = state.recent.examples.take(state.recent.labels.argsort(stable=True)).x
        return FearReady(net, labels, state.gate, x.flatten(1), recent, tuple(counts.tolist()))

    def predict(self, ready: FearReady, x: Tensor, id: TaskId | None = None) -> Answer:
        if not len(ready.labels):
            return Answer(x.new_zeros(len(x), 0), ready.labels)
        with torch.no_grad():
            old = ready.net.net(x).log_softmax(1)
        if not ready.counts:
            return narrow(Answer(old, ready.labels), id)
        a = forward(self.judge, ready.gate, x).diff(dim=1)  # (B, 1)
        new = a + nearness(x.flatten(1), ready.u, ready.counts, self.eps)
        return narrow(_either(old, ready.labels, new, ready.recent), id)


def _either(old: Tensor, known: Tensor, new: Tensor, recent: Tensor) -> Answer:
    """The greater of two scores for every label: old (B, n) for known (n,), new (B, K) for recent (K,)."""
    labels = torch.cat([known, recent[~torch.isin(recent, known)]])
    scores = old.new_full((2, len(old), len(labels)), -torch.inf)
    scores[0, :, : len(known)] = old
    scores[1, :, (recent[:, None] == labels).int().argmax(1)] = new
    return Answer(scores.amax(0), labels)


def _mixed(recent: Memory, dreams: Arrays, dreamt: Tensor, real: Tensor, key: int) -> Arrays:
    """HC and dreams in one set, in any order, under labels of their own."""
    x = recent.examples.take(torch.arange(len(real), device=real.device)).x
    order = permutation(fold(key, "mixed"), len(dreamt) + len(real)).to(real.device)
    return Arrays(torch.cat([dreams.x.view(-1, *x.shape[1:]), x])[order], torch.cat([dreamt, real])[order])
