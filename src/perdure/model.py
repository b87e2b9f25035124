"""A model: the tensors of a network beside the user's module, and the head that grows with the labels.

The user's module gives shapes, start values and the forward pass; it is never changed or flipped between training and
evaluation. Its head is one linear layer whose rows are labels: row i of a fresh head is label i, and `grow` adds rows
that start at zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from perdure.contract import Answer, Examples, Fit, Refused, Task, TaskId
from perdure.data import blocks
from perdure.half import passing, single
from perdure.rng import fold


class Model(NamedTuple):
    """What a network has learned."""

    params: dict[str, Tensor]  # by parameter name
    stats: dict[str, Tensor]  # buffers by name: BatchNorm's running mean and variance
    labels: Tensor  # (n,) int64: the label of each row of the head
    moments: dict[str, dict[str, Tensor]]  # the optimiser's, by slot and parameter; empty unless kept


class Part(NamedTuple):
    """What belongs to one task alone, beside what all tasks share."""

    id: TaskId
    head: dict[str, Tensor]  # by parameter name
    stats: dict[str, Tensor]

    @property
    def task(self) -> int:
        return self.id.index


class Kept(Protocol):
    """What a state keeps of one task."""

    @property
    def task(self) -> int: ...  # its index


Own = TypeVar("Own", bound=Kept)


def head_of(net: nn.Module, fit: Fit) -> str:
    """The name of the head: `fit.head`, or the last Linear layer.

    Raises:
        Refused: there is no such layer.
    """
    linear = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)]
    if fit.head and fit.head not in linear:
        raise Refused(f"fit.head names {fit.head!r}, but the net's Linear layers are {', '.join(linear) or 'none'}")
    if not linear:
        raise Refused("the net has no Linear layer to be its head; end it with one (a row for each label)")
    return fit.head or linear[-1]


def parts_of(head: str) -> tuple[str, str]:
    """The names of a head's parameters: its weight and, if it has one, its bias."""
    return (f"{head}.weight", f"{head}.bias") if head else ("weight", "bias")  # a net may itself be the Linear layer


def start(net: nn.Module, fit: Fit, key: int) -> Model:
    """The model before any task.

    Start values come from each layer's own `reset_parameters` under a generator seeded by the key and the layer's
    name; layers without one keep theirs, and `fit.start="net"` keeps all.
    """
    net = copy.deepcopy(net)
    if fit.start == "fresh":
        with torch.random.fork_rng(devices=[]):
            for name, layer in net.named_modules():
                reset, sizes = getattr(layer, "reset_parameters", None), [p.numel() for p in layer.parameters()]
                if callable(reset) and sizes and all(sizes):
                    torch.default_generator.manual_seed(fold(key, "start", name) >> 1)
                    reset()
    params = {name: param.detach().clone() for name, param in net.named_parameters()}
    rows = params[parts_of(head_of(net, fit))[0]].shape[0]
    return Model(params, {name: buffer.clone() for name, buffer in net.named_buffers()}, torch.arange(rows), {})


def grown(tensors: dict[str, Tensor], head: str, rows: int) -> dict[str, Tensor]:
    """The same tensors by parameter name, those of the head with zero rows added up to `rows`."""
    out = dict(tensors)
    for name in parts_of(head):
        if name in out and (more := rows - out[name].shape[0]) > 0:
            out[name] = torch.cat([out[name], out[name].new_zeros(more, *out[name].shape[1:])])
    return out


def classes_of(task: Task) -> Tensor:
    """(n,) the sorted labels of a task: those of its id, or those its examples show."""
    return task.examples.labels.unique() if task.id is None else task.id.classes


def first_come(task: Task) -> Tensor:
    """(n,) the labels of a task in the order in which its examples first show them, whatever their names."""
    classes, labels = classes_of(task), task.examples.labels
    places = torch.arange(len(labels), device=labels.device)
    first = places.new_full((len(classes),), len(labels))
    where = torch.searchsorted(classes.to(labels.device), labels).clamp_(max=len(classes) - 1)
    return classes[first.scatter_reduce(0, where, places, "amin").argsort(stable=True).to(classes.device)]


def check_classes(task: Task) -> None:
    """Raises Refused where all examples of a task show one class: among its own logits nothing competes with it."""
    if len(task.examples.labels.unique()) == 1:
        raise Refused(
            "all examples of the task show one class, and a task of one class teaches nothing on its own here: add it "
            "to a task that has others"
        )


def extended(labels: Tensor, task: Task) -> Tensor:
    """The labels (n,) with those of a task that are new, in the order in which its examples first show them."""
    seen = first_come(task).to(labels.device)
    return torch.cat([labels, seen[~torch.isin(seen, labels)]])


def grow(net: nn.Module, fit: Fit, model: Model, task: Task) -> Model:
    """The model with a row for each label of a task; new rows start at zero."""
    classes = classes_of(task).to(model.labels.device)
    new = classes[~torch.isin(classes, model.labels)]
    if not len(new):
        return model
    head, labels = head_of(net, fit), torch.cat([model.labels, new])
    return Model(
        grown(model.params, head, len(labels)),
        model.stats,
        labels,
        {slot: grown(tensors, head, len(labels)) for slot, tensors in model.moments.items()},
    )


def own_head(net: nn.Module, fit: Fit, model: Model, task: Task) -> Model:
    """The model with a row for each label of a task and no others, as a task that keeps a head to itself starts.

    Rows that the model has are kept, new ones start at zero; labels are sorted, and there are no moments.

    Raises:
        Refused: the examples of the task show one class.
    """
    check_classes(task)
    whole, head = grow(net, fit, model, task), parts_of(head_of(net, fit))
    rows = rows_of(whole.labels, classes_of(task))
    params = {name: w[rows] if name in head else w for name, w in whole.params.items()}
    return Model(params, whole.stats, whole.labels[rows], {})


def with_outputs(net: nn.Module, fit: Fit, rows: int) -> nn.Module:
    """A copy of the net whose head has `rows` rows (0 for a head that grows); the net itself where it has them."""
    name = head_of(net, fit)
    old = net.get_submodule(name)
    assert isinstance(old, nn.Linear)
    if old.out_features == rows:
        return net
    import warnings

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # the same rows each time
        warnings.simplefilter("ignore", UserWarning)  # a head of no rows has nothing to initialise
        torch.default_generator.manual_seed(0)
        new = nn.Linear(old.in_features, rows, old.bias is not None, old.weight.device, old.weight.dtype)
    if not name:
        return new
    net = copy.deepcopy(net)
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, new)
    return net


def index_of(task: Task, learned: Iterable[int | None]) -> int:
    """The index of a task: that of its id, or the one after all that were learned (None for one that is forgotten)."""
    if task.id is not None:
        return task.id.index
    return 1 + max((index for index in learned if index is not None), default=-1)


def place_of(index: int, learned: Sequence[int | None]) -> int:
    """The place of a task among the indices of those learned (None for one that is forgotten).

    Raises:
        Refused: it is not there; those that are are named.
    """
    if index not in learned:
        known = ", ".join(str(other) for other in learned if other is not None)
        raise Refused(f"no task of index {index} is kept; those kept are {known or 'none'}")
    return learned.index(index)


def without(parts: tuple[Own, ...], index: int) -> tuple[Own, ...]:
    """What is kept of all tasks but one.

    Raises:
        Refused: nothing is kept of that one.
    """
    place = place_of(index, [part.task for part in parts])
    return parts[:place] + parts[place + 1 :]


def rows_of(labels: Tensor, classes: Tensor) -> Tensor:
    """The row (n,) of each label in `classes`; labels without a row are left out."""
    hit = classes.to(labels.device)[:, None] == labels[None, :]
    return hit.nonzero()[:, 1]


_evaluation: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def evaluation(net: nn.Module) -> nn.Module:
    """A private copy of the net in evaluation mode, made once."""
    if net not in _evaluation:
        _evaluation[net] = copy.deepcopy(net).eval().requires_grad_(False)
        for layer in _evaluation[net].modules():
            if isinstance(layer, nn.RNNBase):  # cuDNN differentiates these in training mode alone
                layer.dropout = 0.0
                layer.train()
    return _evaluation[net]


def recurrent(net: nn.Module) -> bool:
    """Whether a network has recurrent layers of torch's, for which vmap has no rule."""
    return any(isinstance(layer, nn.RNNBase) for layer in net.modules())


def forward(net: nn.Module, model: Model, x: Tensor) -> Tensor:
    """All logits (B, rows) of inputs x (B, ...), in evaluation mode, without gradient."""
    with torch.no_grad(), passing(x.device):
        logits = functional_call(evaluation(net), {**model.params, **model.stats}, (x,))
    assert isinstance(logits, Tensor)
    return single(logits)


def accuracy(net: nn.Module, model: Model, examples: Examples) -> float:
    """The share of examples whose label wins among all rows of a model's head, 0 to 1."""
    parts = blocks(examples, model.labels.device)
    return sum(int((model.labels[forward(net, model, x).argmax(1)] == y).sum()) for x, y, _ in parts) / len(examples)


def features(net: nn.Module, fit: Fit, model: Model, x: Tensor) -> Tensor:
    """(B, d) what the head sees of inputs x (B, ...), in evaluation mode, without gradient."""
    head = evaluation(net).get_submodule(head_of(net, fit))
    with calls([head]) as called:
        forward(net, model, x)
    return single(called[head][0][0].flatten(1))


@contextmanager
def calls(layers: Iterable[nn.Module]) -> Iterator[dict[nn.Module, list[tuple[Tensor, Tensor]]]]:
    """Collects the inputs and outputs of every call of the layers inside the block; outputs take part in gradients."""
    called: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor:
        called.setdefault(layer, []).append(((*inputs, *named.values())[0], output.requires_grad_()))
        return output.clone()  # an in-place activation must not overwrite what was noted

    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def answer(net: nn.Module, model: Model, x: Tensor, id: TaskId | None = None) -> Answer:
    """The answer of one shared head: all its labels compete, or those of the task whose id is given."""
    if not len(model.labels):
        return Answer(x.new_zeros(len(x), 0), model.labels)
    return narrow(Answer(forward(net, model, x), model.labels), id)


def narrow(answer: Answer, id: TaskId | None) -> Answer:
    """The same answer with only the labels of the given task competing."""
    if id is None:
        return answer
    rows = rows_of(answer.labels, id.classes)
    return answer._replace(logits=answer.logits[:, rows], labels=answer.labels[rows])


def probe(net: nn.Module, fit: Fit, x: Tensor) -> str:
    """The name of the head, found by one forward pass: the Linear layer whose output is the net's.

    Raises:
        Refused: the net cannot take inputs x (B, ...), or does not answer with (B, rows).
    """
    outputs: dict[str, object] = {}
    module = evaluation(net)
    hooks = [
        layer.register_forward_hook(lambda _, __, out, name=name: outputs.__setitem__(name, out))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        with torch.no_grad():
            logits = module(x)
    except RuntimeError as error:
        raise Refused(f"the net cannot take inputs of shape {tuple(x.shape[1:])}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        raise Refused(f"the net must answer a batch of B inputs with (B, rows) logits, and answers {_shape(logits)}")
    last = [name for name, out in outputs.items() if out is logits]
    return head_of(net, fit) if fit.head or not last else last[0]


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
