"""DGR, deep generative replay: a generator learns the inputs beside the solver, and both rehearse what it makes up.

    L_S  = r mean over B_t of CE(S(x), y) + (1 - r) mean over B' of l(S(x'), S_{t-1}(x'))    x' ~ G_{t-1}, |B'| = |B_t|
    L_G  = r mean over B_t of -ELBO(x)    + (1 - r) mean over B' of -ELBO(x')                r = 1 / t
    l    = CE with the label argmax S_{t-1}(x')                hard
         = tau^2 KD(S(x'), S_{t-1}(x')) at temperature tau     distilled

G is a variational autoencoder (`perdure.nets.vae`), and x' the mean that it decodes of z ~ N(0, I). What it is trained
on are inputs moved to [0, 1], the range of a Bernoulli likelihood, or for the Gaussian one to mean 0 and variance 1.
An entry says as little as the toss of a coin, however fine its grey: images of 64 pixels are drawn blurred.

Reference: H. Shin, J. K. Lee, J. Kim, J. Kim, "Continual learning with deep generative replay", 2017, arXiv 1705.08690;
    with this generator, r = 1/t and distilled labels in G. M. van de Ven, A. S. Tolias, "Generative replay with
    feedback connections as a general strategy for continual learning", 2018, arXiv 1809.10635.
Deviations: of the first paper, the generator, which is an adversarial one there. Solver and generator take their steps
    in turn. L_G is divided by the entries of an input, so that one learning rate suits inputs of any size; for Adam
    that is no change. Both batches share a forward pass, so that normalisation statistics see them together. Where only
    the task's own logits compete (GG), a generated input is labelled within every set of labels learned before, and
    l is the mean over these sets. A chunk of a flow without tasks (NNs) counts as a task in t.
Memory: constant, the network and the generator, made when the first task is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, prod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from perdure.contract import (
    Answer,
    Examples,
    Fit,
    Method,
    Refused,
    Scale,
    Scenario,
    Task,
    TaskId,
    Trace,
    check_finite,
    check_words,
)
from perdure.data import BLOCK as ROWS
from perdure.model import Model, answer, forward, grow, rows_of, start
from perdure.nets.vae import VAE, Likelihood
from perdure.ops.distil import distance
from perdure.ops.rivals import Sets, enlist, rivals
from perdure.rng import fold, generator
from perdure.train import BLOCK, Descent, competing, length, minimise
from perdure.tree import to

Labels = Literal["hard", "distilled"]
BYTE = 255.0
ROUNDING = 1e-4  # of a range


class Generator(NamedTuple):
    """What makes inputs up."""

    model: Model
    shape: tuple[int, ...]  # of one input
    unit: Scale  # how inputs become what it is trained on


class DGRState(NamedTuple):
    """A scholar: a solver and a generator."""

    model: Model
    generator: Generator | None  # none before the first task, which gives the inputs their shape and range
    sets: Sets  # the sets of labels that compete among themselves; none where all labels compete
    tasks: int  # learned so far


def extremes(examples: Examples) -> tuple[float, float]:
    """The lowest and the highest entry of any input of a set, scaled."""
    rows = torch.arange(len(examples), device=examples.labels.device).split(ROWS)
    ends = torch.stack([torch.stack(examples.raw(block).aminmax()) for block in rows])
    low, high = sorted(examples.scale(torch.stack([ends[:, 0].min(), ends[:, 1].max()])).tolist())
    return low, high


def standard(examples: Examples) -> Scale:
    """How inputs move to mean 0 and variance 1, over all entries of a set."""
    total = squares = count = 0.0
    for block in torch.arange(len(examples), device=examples.labels.device).split(ROWS):
        x = examples.take(block).x.double()
        total, squares, count = total + float(x.sum()), squares + float(x.square().sum()), count + x.numel()
    variance = squares / count - (total / count) ** 2
    return Scale(total / count, variance**-0.5 if variance > 0 else 1.0)


def bounded(low: float, high: float, examples: Examples) -> Scale:
    """How inputs from `low` to `high` move to [0, 1]: from there, from [-1, 1], or from all that bytes can be.

    Raises:
        Refused: nothing says how far they may reach.
    """
    ranges = [(0.0, 1.0), (-1.0, 1.0)]
    if examples.raw(torch.arange(1, device=examples.labels.device)).dtype == torch.uint8:
        first, last = sorted(examples.scale(torch.tensor([0.0, BYTE])).tolist())
        if high - low > (last - first) / 2:  # small numbers that happen to be bytes would all look alike
            ranges.append((first, last))
    for first, last in ranges:
        if within(low, high, Scale(first, 1 / (last - first))):
            return Scale(first, 1 / (last - first))
    raise Refused(
        f"the generator draws entries from a bounded range, and those of this task lie in [{low:.4g}, {high:.4g}]; "
        "scale them to [0, 1] (--stream.scale unit), or use method.likelihood gaussian"
    )


def within(low: float, high: float, unit: Scale) -> bool:
    """Whether inputs from `low` to `high` move to [0, 1], but for rounding."""
    return (low - unit.shift) * unit.factor >= -ROUNDING and (high - unit.shift) * unit.factor <= 1 + ROUNDING


@dataclass(frozen=True, eq=False)
class DGR(Method):
    """Deep generative replay with a variational autoencoder.

    Args:
        labels: of generated inputs: hard (the old solver's first choice), or distilled (all of its answer).
        tau: temperature at which answers are compared (distilled).
        r: importance of the new task, above 0; 1/t when not given, and with 1 nothing is replayed.
        hidden: units of the generator's hidden layers, joined by dashes: those of its encoder, and of its decoder in
            the other order.
        z: entries of its latent variable.
        likelihood: of its inputs: bernoulli for a bounded range, such as pixels; gaussian for any numbers.
        generator_lr: its learning rate; that of fit when not given.
    """

    labels: Labels = "hard"
    tau: float = 2.0
    r: float | None = None
    hidden: str = "400-400"
    z: int = 100
    likelihood: Likelihood = "bernoulli"
    generator_lr: float | None = None

    # not NNS: taught anew by every chunk of a flow, a generator soon draws the last ones only
    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    states: ClassVar = (DGRState, Generator, Model, Scale)
    off: ClassVar = {"r": 1.0}

    def __post_init__(self) -> None:
        check_words("method", self)
        if not 0 < self.tau < inf:
            raise Refused(f"method.tau is {self.tau}; a temperature is positive and finite")
        if self.r is not None and not 0 < self.r <= 1:
            raise Refused(f"method.r is {self.r}; it must be above 0 and at most 1 (1 replays nothing)")
        if not all(width.isdecimal() and int(width) for width in self.hidden.split("-")):
            raise Refused(f"method.hidden is {self.hidden!r}; write positive numbers joined by dashes, such as 400-400")
        if self.z < 1:
            raise Refused(f"method.z is {self.z}; it must be at least 1")
        check_finite("generator_lr", self.generator_lr or 0.0)

    def init(self, key: int, background: Examples | None = None) -> DGRState:
        return DGRState(start(self.net, self.fit, key), None, (), 0)

    def vet(self, tasks: Sequence[Task]) -> None:
        made = None
        for task in tasks if self.r != 1 else ():
            made = self._made(made, task.examples, 0, torch.device("cpu"))

    def learn(self, state: DGRState, task: Task, key: int) -> tuple[DGRState, Trace]:
        model = grow(self.net, self.fit, state.model, task)
        if self.r == 1:
            model, trace = minimise(self.net, model, self.fit, task, key)
            return state._replace(model=model), trace
        size, steps = length(self.fit, len(task.examples))
        sets, own = enlist(state.sets, competing(self.fit, task))
        classes, bias = rivals(model.labels, sets)
        solver = Descent(self.net, model, self.fit, key, classes)
        examples = task.examples.materialise(solver.device)
        made = self._made(state.generator, examples, key, solver.device)
        maker = Descent(self._vae(made.shape), made.model, self._fit, fold(key, "generator"))
        maker.total = steps
        r = (self.r or 1 / (state.tasks + 1)) if state.generator else 1.0
        past = [slice(None)] if bias is None else [rows_of(model.labels, torch.tensor(each)) for each in state.sets]
        noise, entries = generator(fold(key, "noise"), solver.device), prod(made.shape)
        replay = self._replay(state, solver.rows, size, steps, key)
        for batch in solver.batches(examples):
            x, then = next(replay, (batch.x[:0], None))
            logits = solver(both := torch.cat([batch.x, x]))
            eps = torch.randn(len(both), self.z, generator=noise, device=noise.device)
            surprise = maker.net(made.unit(both).view(-1, entries), eps) / entries
            new, old = slice(len(batch.y)), slice(len(batch.y), None)
            loss = cross_entropy(logits[new] if bias is None else logits[new] + bias[own], batch.y)
            cost = surprise[new].mean()
            if then is not None:
                loss = r * loss + (1 - r) * self._echo(logits[old], then, past)
                cost = r * cost + (1 - r) * surprise[old].mean()
            solver.follow(loss)
            maker.follow(cost)
        return DGRState(solver.model, made._replace(model=maker.model), sets, state.tasks + 1), solver.trace

    def predict(self, ready: DGRState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)

    def _made(self, made: Generator | None, examples: Examples, key: int, device: torch.device) -> Generator:
        """The generator so far; before the first task a new one, for inputs like those of a set.

        Raises:
            Refused: it cannot take the inputs.
        """
        shape = tuple(examples.raw(torch.arange(1, device=examples.labels.device)).shape[1:])
        if made is not None and shape != made.shape:
            raise Refused(f"inputs have shape {shape}, and the generator was made for {made.shape}; keep to one shape")
        low, high = extremes(examples)
        if not isfinite(low) or not isfinite(high):
            raise Refused("inputs must be finite for a generator to learn them, and some are not; clean them first")
        if made is None:
            unit = standard(examples) if self.likelihood == "gaussian" else bounded(low, high, examples)
            model = start(self._vae(shape), self._fit, fold(key, "generator"))
            model = model._replace(labels=model.labels[:0])  # it has no head
            return Generator(to(model, device), shape, unit)
        if self.likelihood == "bernoulli" and not within(low, high, made.unit):
            first, last = made.unit.shift, made.unit.shift + 1 / made.unit.factor
            raise Refused(
                f"the generator was made for inputs from {first:.4g} to {last:.4g}, and those of this task lie in "
                f"[{low:.4g}, {high:.4g}]; scale all tasks alike, or use method.likelihood gaussian"
            )
        return made

    def _vae(self, shape: tuple[int, ...]) -> VAE:
        """The generator as a module, whose weights mean nothing yet; the caller's generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            return VAE(prod(shape), tuple(map(int, self.hidden.split("-"))), self.z, self.likelihood)

    @property
    def _fit(self) -> Fit:
        """How the generator is fitted: as the solver is, but for what names its layers."""
        rate = self.fit.lr if self.generator_lr is None else self.generator_lr
        return replace(self.fit, lr=rate, start="fresh", freeze="", head="")

    def _echo(self, logits: Tensor, then: Tensor, past: Sequence[Tensor | slice]) -> Tensor:
        """The mean of l over generated inputs, from logits (B', n) and those of the solver before (B', m)."""
        terms = []
        for own in past:
            if self.labels == "hard":
                terms.append(cross_entropy(logits[:, own], then[:, own].argmax(1)))
            else:
                terms.append(self.tau**2 * distance(logits[:, own], then[:, own], self.tau).mean())
        return torch.stack(terms).mean()

    def _replay(
        self, state: DGRState, rows: Tensor | None, size: int, steps: int, key: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For every step generated inputs x' (B', ...) and the logits (B', m) that the solver so far gives them.

        There are none before the second task. Those of many steps are made at once.

        Args:
            rows: (m,) of the head that answer; all when not given.
        """
        if state.generator is None:
            return
        weights, shape, unit = state.generator
        vae, like = self._vae(shape), weights.params["decoder.0.weight"]
        vae.to(like).load_state_dict(weights.params)
        noise = generator(fold(key, "replay"), like.device)
        widest = max(layer.numel() for name, layer in weights.params.items() if name.endswith("bias"))
        block, n = size * max(1, BLOCK // (size * widest)), size * steps
        for place in range(0, n, block):
            with torch.no_grad():
                z = torch.randn(min(block, n - place), self.z, generator=noise, device=like.device)
                x = (vae.mean(z) / unit.factor + unit.shift).view(-1, *shape)
                then = forward(self.net, state.model, x)
            yield from zip(x.split(size), (then if rows is None else then[:, rows]).split(size), strict=True)
