"""Every method against every law in every scenario; and every law against methods that break it."""

import importlib
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch import nn

from perdure.contract import Fit, Method, Refused, Scenario
from perdure.half import halved
from perdure.methods import METHODS
from perdure.methods import packnet as packnet_module
from perdure.methods.finetune import Finetune
from perdure.methods.packnet import PackNet
from perdure.nets.mlp import bn_mlp
from perdure.testing import LAWS, Case, LawBroken, cases, check, check_method
from perdure.tree import leaves

NET = nn.Linear(8, 2)  # the laws bring their own
NETS = {"hopsupsup": bn_mlp((8,), (256,))}  # too few masks of 16 units know a task
OPTIONS = {
    "supsup": {"outputs": 10},  # of the 100 of its default a network of 16 units would be nearly all head
    "dgr": {"hidden": "16-16", "z": 4},  # quicker, and wide enough for 8 features
    "fearnet": {"sleep": 2},  # so that it sleeps, and lies awake after it
}


@lru_cache
def _method(name: str) -> Method:
    module, _, kind = METHODS[name].partition(":")
    made: Method = getattr(importlib.import_module(module), kind)(NET, **OPTIONS.get(name, {}))
    return made


@lru_cache
def _case(name: str, scenario: Scenario) -> Case:
    return Case(_method(name), scenario, NETS.get(name))


@pytest.mark.parametrize(
    ("name", "law", "scenario"),
    [
        pytest.param(name, law, scenario, id=f"{name}-{law}-{scenario.value}")
        for name in METHODS
        for law, scenario in cases(_method(name))
    ],
)
def test_law(name: str, law: str, scenario: Scenario) -> None:
    check(law, _case(name, scenario))


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_is_that_of_forward_passes_and_states_are_as_they_would_be(name: str) -> None:
    case = _case(name, next(scenario for scenario in Scenario if scenario in _method(name).scenarios))
    method = case.anew()
    with halved(True):
        states, _ = case.life(method, case.tasks[:2])
        answer = method.predict(method.ready(states[-1]), case.inputs(0), case.id(0))
    kinds = [
        {path: leaf.dtype for path, leaf in leaves(state) if isinstance(leaf, torch.Tensor)}
        for state in (states[-1], case.states[2])
    ]
    assert kinds[0] == kinds[1]
    assert answer.logits.dtype == torch.float32


GOOD = '''"""L2: every weight is pulled to where the task before left it.

Reference: none; a method of the tests.
Deviations: none.
Memory: constant, the network twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.contract import Answer, Method, Scenario
from perdure.methods.finetune import Finetune
from perdure.model import Model, answer, grow, start
from perdure.rng import fold
from perdure.train import Descent, competing


class L2State(NamedTuple):
    model: Model
    anchor: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class L2(Method):
    """Finetune on a leash.

    Args:
        lam: strength of the pull.
    """

    lam: float = 0.01

    states: ClassVar = (L2State, Model)
    off: ClassVar = {"lam": 0.0}

    def init(self, key, background=None):
        model = start(self.net, self.fit, key)
        return L2State(model, model.params)

    def learn(self, state, task, key):
        model, anchor = grow(self.net, self.fit, state.model, task), state.anchor
        descent = Descent(self.net, model, self.fit, key, competing(self.fit, task))
        far = descent.layout.flat(anchor)
        for batch in descent.batches(task.examples):
            grads = descent.grad(F.cross_entropy(descent(batch.x), batch.y))
            grads.add_(descent.flat - far, alpha=self.lam)
            descent.step(grads)
        anchor = descent.layout.named(descent.flat)
        return L2State(descent.model, anchor), descent.trace

    def predict(self, ready, x, id=None):
        return answer(self.net, ready.model, x, id)
'''

LEARN = "        model, anchor = grow"
PREDICT = "        return answer(self.net"
KEPT = "        anchor = descent.layout.named(descent.flat)\n"
CALL = "answer(self.net, ready.model, x, id)"
OFF = "    off: ClassVar"
INIT = "    def init("
FORGET = "    def forget(self, state, index):\n        "
DOC = GOOD[GOOD.index('    """Fine') : GOOD.index("    lam: float")]

# what is wrong: the law, the lines and what stands there instead, what the message says
BROKEN: dict[str, tuple[str, dict[str, str], str]] = {
    "undecorated": ("declared", {"@dataclass(frozen=True, eq=False)\n": ""}, "is not a frozen dataclass"),
    "subclass": ("declared", {"L2(Method)": "L2(Finetune)"}, "a subclass of Finetune"),
    "vague memory": ("declared", {OFF: '    memory: ClassVar = "some"\n' + OFF}, "`memory` is 'some'"),
    "unknown option": ("declared", {'{"lam": 0.0}': '{"mu": 0.0}'}, "`off` names 'mu'"),
    "fails where it does not work": (
        "declared",
        {
            OFF: "    scenarios: ClassVar = frozenset({Scenario.GG})\n"
            '    fails: ClassVar = {Scenario.GNU: "20 %"}\n' + OFF
        },
        "`fails` names <Scenario.GNU: 'gnu'>, where it does not work at all",
    ),
    "fails without a word": (
        "declared",
        {OFF: '    fails: ClassVar = {Scenario.GNU: " "}\n' + OFF},
        "`fails` says ' ' of scenario gnu. Say what showed it",
    ),
    "unknown state": (
        "declared",
        {"(L2State, Model)": "(Model,)"},
        "holds a 'L2State', which this method does not declare",
    ),
    "list in the state": (
        "declared",
        {"model.params)": "[model.params])", "flat(anchor)": "flat(anchor[0])", "model, anchor)": "model, [anchor])"},
        "may not hold a list",
    ),
    "no deviations": ("documented", {"Deviations: none.\n": ""}, "has no 'Deviations:'"),
    "no class docstring": ("documented", {DOC: ""}, "the class has no docstring"),
    "option not explained": ("documented", {"        lam: strength": "        It is the strength"}, "what 'lam' is"),
    "changes its state": (
        "pure",
        {LEARN: '        state.model.params["1.weight"].mul_(1.5)\n' + LEARN},
        "learn changed state.model.params.1.weight",
    ),
    "changes its task": (
        "pure",
        {LEARN: "        task.examples.labels.zero_()\n" + LEARN},
        "learn changed task.labels",
    ),
    "flips the module": ("pure", {LEARN: "        self.net.eval()\n" + LEARN}, "learn changed net's modes"),
    "wakes the module": ("pure", {PREDICT: "        self.net.train()\n" + PREDICT}, "predict changed net's modes"),
    "draws globally": ("pure", {LEARN: "        torch.rand(1)\n" + LEARN}, "learn changed global generator.torch"),
    "changes the inputs": ("pure", {PREDICT: "        x.add_(1.0)\n" + PREDICT}, "predict changed x"),
    "counts its exams": (
        "pure",
        {PREDICT: '        vars(self)["n"] = vars(self).get("n", 0) + 1\n        x = x + self.n\n' + PREDICT},
        "answered the same question twice with different logits",
    ),
    "global noise": (
        "repeatable",
        {"descent.step(grads)": "descent.step(grads + 0.01 * torch.randn_like(grads))"},
        "never from torch's",
    ),
    "memory outside the state": (
        "resumable",
        {"flat(anchor)": 'flat(vars(self).setdefault("first", anchor))'},
        "nothing on the method",
    ),
    "remembers an id": (
        "hidden",
        {PREDICT: '        id = vars(self)["last"] = id or vars(self).get("last")\n' + PREDICT},
        "with the id another one had",
    ),
    "looks beneath": (
        "hidden",
        {LEARN: '        key = fold(key, len(getattr(task.examples, "base", ())))\n' + LEARN},
        "nothing beneath",
    ),
    "leaks across the batch": ("alone", {PREDICT: "        x = x - x.mean(0)\n" + PREDICT}, "on its own"),
    "labels of the batch": (
        "alone",
        {CALL: "Answer(answer(self.net, ready.model, x).logits[:, : len(x)], ready.model.labels[: len(x)])"},
        "the labels of an answer change with the batch",
    ),
    "deaf to the id": ("answered", {"x, id)\n": "x)\n"}, "but the task has"),
    "wrong shape": ("answered", {CALL: CALL + "._replace(labels=ready.model.labels[:1])"}, "logits have shape"),
    "not a number": ("answered", {"x, id)\n": "x * torch.nan, id)\n"}, "a logit is NaN"),
    "a label twice": (
        "answered",
        {CALL: "answer(self.net, ready.model._replace(labels=ready.model.labels * 0), x)"},
        "twice",
    ),
    "no inferred task": ("answered", {CALL: CALL + "._replace(task=torch.zeros(len(x)))"}, "one int64 task index"),
    "learns nothing": ("learns", {"descent.step(grads)": "descent.step(grads.zero_())"}, "at least 0.8 was expected"),
    "no trace": ("learns", {"descent.trace": "descent.trace._replace(loss=torch.zeros(0))"}, "must hold the loss"),
    "grows": (
        "memory",
        {KEPT: KEPT + '        anchor = {**state.anchor, **anchor, f"task {key}": torch.zeros(8)}\n'},
        "is declared constant, but the state takes",
    ),
    "does not grow": ("memory", {OFF: '    memory: ClassVar = "task"\n' + OFF}, "declared to grow with the task"),
    "grows too fast": (
        "memory",
        {
            OFF: '    memory: ClassVar = "task"\n' + OFF,
            KEPT: KEPT + '        anchor = {**state.anchor, **anchor, f"task {key}": torch.zeros(900)}\n',
        },
        "task 2 has 1920 bytes of data, but the state grew by 3600",
    ),
    "forgets": ("isolated", {OFF: "    isolates: ClassVar = True\n" + OFF}, "of task 1 changed with later tasks"),
    "isolates and cannot forget": (
        "forgotten",
        {OFF: "    isolates: ClassVar = True\n" + OFF},
        "it isolates tasks, but refuses to forget one (L2 cannot forget one task",
    ),
    "refuses and leaves it there": (
        "forgotten",
        {"Method, Scenario": "Method, Refused, Scenario", INIT: FORGET + 'raise Refused("no")\n\n' + INIT},
        "forgetting is refused with 'no'. Say to roll back instead",
    ),
    "forgets nothing": (
        "forgotten",
        {INIT: FORGET + "return state\n\n" + INIT},
        "the id of task 1 was forgotten, and still has labels [0, 1]",
    ),
    "forgets everything": (
        "forgotten",
        {INIT: FORGET + "return self.init(0)\n\n" + INIT},
        "the logits of task 2 changed when task 1 was forgotten",
    ),
    "forgets in place": (
        "forgotten",
        {INIT: FORGET + "state.anchor.clear()\n        return state\n\n" + INIT},
        "forget changed anchor",
    ),
    "grows when it forgets": (
        "forgotten",
        {INIT: FORGET + "return state, torch.zeros(1)\n\n" + INIT},
        "without task 1 the state takes",
    ),
    "never off": ("off", {"alpha=self.lam": "alpha=self.lam + 0.1"}, "is not finetune's"),
    "off but for its answers": (
        "off",
        {PREDICT: "        x = x * 1.001\n" + PREDICT},
        "an answer from s_1 differs from finetune's in its logits",
    ),
    "labels as places": (
        "relabelled",
        {PREDICT: "        ready.model.labels.clamp_(max=9)\n" + PREDICT},
        "A label is a name",
    ),
}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], type[Method]]:
    """A method class from its source, as a user's own file gives it."""

    def load(source: str) -> type[Method]:
        path = tmp_path / "l2.py"
        path.write_text(source)
        spec = spec_from_file_location("l2", path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "l2", module)
        spec.loader.exec_module(module)
        kind: type[Method] = module.L2
        return kind

    return load


def test_a_users_own_method_passes(written: Callable[[str], type[Method]]) -> None:
    checked = check_method(written(GOOD)(NET))
    assert checked == [law for law in LAWS if law != "isolated"]  # it does not claim to isolate


@pytest.mark.parametrize("wrong", BROKEN)
def test_a_broken_method_is_caught(wrong: str, written: Callable[[str], type[Method]]) -> None:
    law, lines, message = BROKEN[wrong]
    source = GOOD
    for line, instead in lines.items():
        assert line in source
        source = source.replace(line, instead)
    with pytest.raises(LawBroken) as caught:
        check_method(written(source)(NET), laws=[law])
    assert str(caught.value).startswith(f"L2 breaks the law {law!r}")
    assert message in str(caught.value)


def test_every_law_has_a_method_that_breaks_it() -> None:
    assert {law for law, _, _ in BROKEN.values()} == set(LAWS)


@pytest.mark.parametrize("careless", ["held", "freeze"])
def test_packnet_without_its_care_is_caught(careless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = getattr(packnet_module, careless)

    def nothing_held(model: object, owner: object, t: int) -> torch.Tensor:
        held: torch.Tensor = whole(model, owner, t)
        return torch.zeros_like(held)

    def one_head(state: packnet_module.Packed, *rest: object) -> packnet_module.Packed:
        after: packnet_module.Packed = whole(state, *rest)
        return after._replace(parts=tuple(part._replace(stats=after.parts[-1].stats) for part in after.parts))

    monkeypatch.setattr(packnet_module, careless, nothing_held if careless == "held" else one_head)
    with pytest.raises(LawBroken, match="breaks the law 'isolated' in scenario gg: the logits of task 1 changed"):
        check_method(PackNet(NET), laws=["isolated"])


def test_only_what_is_asked_for_is_checked() -> None:
    assert check_method(Finetune(NET), laws=["learns", "pure"], scenarios=[Scenario.GNU]) == ["pure", "learns"]
    assert ("isolated", Scenario.GG) not in cases(Finetune(NET))
    assert ("isolated", Scenario.GG) in cases(PackNet(NET))
    assert {scenario for _, scenario in cases(PackNet(NET))} == {Scenario.GG, Scenario.GNS, Scenario.GNU}
    assert [pair for pair in cases(Finetune(NET)) if pair[0] == "declared"] == [("declared", Scenario.GG)]


def test_the_method_keeps_its_options_and_its_kind_of_optimiser() -> None:
    method = PackNet(NET, Fit(optimizer="sgd", momentum=0.5, epochs=300, batch=1000, freeze="features.*"), prune=0.6)
    case = Case(method, Scenario.GNS)
    assert isinstance(case.method, PackNet)
    fit = case.method.fit
    assert (case.method.prune, fit.optimizer, fit.momentum, fit.freeze) == (0.6, "sgd", 0.5, "")
    assert (fit.epochs, fit.steps, fit.batch) == (None, 40, 12)


def test_a_net_and_a_fit_of_ones_own() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    fit = Fit(optimizer="sgd", lr=0.5, steps=80, batch=30)
    case = Case(PackNet(NET), Scenario.GG, net, fit)
    assert list(case.method.init(0).model.params) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert len(case.lived[1][0].loss) == 80
    assert check_method(PackNet(NET), net=net, fit=fit, laws=["learns", "isolated"]) == ["learns", "isolated"]


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw"])
def test_packnet_keeps_its_bits_under_every_optimiser(optimizer: str) -> None:
    momentum = 0.9 if optimizer != "adamw" else 0.0
    fit = Fit(optimizer=optimizer, momentum=momentum, weight_decay=0.01, moments="kept")  # type: ignore[arg-type]
    check_method(PackNet(NET, fit), laws=["isolated", "resumable"])


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(Refused, match="PackNet does not work in scenario nns; it works in gg, gns, gnu"):
        check_method(PackNet(NET), scenarios=[Scenario.NNS])
    with pytest.raises(Refused, match=r"Finetune is a class; check a method: check_method\(Finetune\(net\)\)"):
        check_method(Finetune)
    with pytest.raises(Refused, match="there is no law 'beautiful'; there are declared, documented, pure"):
        check_method(PackNet(NET), laws=["beautiful"])


def test_a_method_for_no_scenario_breaks_the_law(written: Callable[[str], type[Method]]) -> None:
    kind = written(GOOD.replace(OFF, "    scenarios: ClassVar = frozenset()\n" + OFF))
    with pytest.raises(LawBroken, match="L2 declares no scenario"):
        check_method(kind(NET))
