"""Times Perdure against a hand-written loop on the same data, in one process and interleaved, and writes the ratios.

Absolute times mean little on a shared machine: both sides take turns with the same number of threads, and the ratio is
that of their least times, since other work on the machine only ever adds to a time. The median of the ratios of each
round is kept beside it: where the two differ, the machine was busy. `--quick` takes a tenth of the steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench import raw
from bench.remembering import BOUNDS as REMEMBERING
from bench.remembering import HERDING, herding, remembering
from bench.timing import base, ratio, seconds
from perdure import nets
from perdure.contract import Fit, Method, Scenario, Task, TaskId
from perdure.data import BLOCK as BATCH
from perdure.data import Arrays
from perdure.datasets import load
from perdure.evaluate import examine
from perdure.learner import Learner, Policy
from perdure.methods.a_gem import AGEM
from perdure.methods.er import ER
from perdure.methods.ewc import EWC
from perdure.methods.finetune import Finetune
from perdure.methods.si import SI
from perdure.methods.supsup import SupSup
from perdure.ops.fisher import diagonal
from perdure.ops.masks import start_scores
from perdure.ops.select import threshold
from perdure.streams.permuted import permuted

LR = 0.01
MEMORIES, REFERENCE = 1000, 256  # of A-GEM
PHOTOS = "finetune, resnet18:20 on 32 x 32 images, batch 10"
BOUNDS = {
    "finetune, batch 10": 1.10,
    "finetune, batch 128": 1.10,
    "ewc, batch 10": 1.20,
    "ewc, batch 128": 1.10,
    "er, batch 10": 1.15,
    "er, batch 128": 1.15,
    "si, batch 10": 1.40,
    "si, batch 128": 1.25,
    "a-gem, batch 10": 1.15,  # of a raw step and a raw gradient on the reference batch
    "a-gem, batch 128": 1.15,
    "exact Fisher of all examples, in training epochs (batch 10)": 3.0,
    "exact Fisher of all examples, in training epochs (batch 128)": 3.0,
    PHOTOS: 1.10,  # of the same layers on images as they are
    "exam": 1.2,
    "supsup, threshold, 1,000 steps": 1.25,  # of rmsprop on all weights; start and coding of the mask are in it
    "supsup, largest, 1,000 steps": 1.6,
    "exam by a mask, of an exam by weights": 1.1,
    "mask of the largest of 2.36 M scores, density 0.02, of a sort": 0.1,
    "mask of the largest of 2.36 M scores, density 0.5, of a sort": 0.1,
    "er on disk, 10,000 predictions": 1.2,  # of the method's own answers, batch by batch
    "supsup on disk, 10,000 predictions": 1.2,
} | REMEMBERING
MASKS = 250  # on top of one another
BESIDES = "a learner on disk, besides learning and exams"
MILLISECONDS = {  # the first two on two threads
    "one-shot, one image alone": 40.0,
    "one-shot, an image of 128": 4.0,
    BESIDES: 500.0,
    HERDING: 2000.0,
}


def speed(steps: dict[int, int], rounds: int) -> tuple[dict[str, dict[str, float]], str]:
    """Ratios of the loop, the exact Fisher and the exam."""
    images, data = base()
    stream = permuted(images, tasks=2)
    x, y = stream[1].examples.take(torch.arange(60_000)).x.flatten(1), images.train.labels
    task, key, out = Task(Arrays(x, y), stream[1].id), 1, {}  # the same prepared tensors on both sides
    for batch, n in steps.items():
        fit = Fit(optimizer="sgd", lr=LR, steps=n, batch=batch, compete="seen")
        plain, doubled = (partial(raw.train, raw.mlp(), x, y, size, LR, n) for size in (batch, 2 * batch))
        past = torch.arange(MEMORIES)
        few = replace(fit, steps=n // 6)  # each of these steps is many times as long
        beside = partial(raw.train_beside, raw.mlp(), x, y, batch, LR, n // 6, x[past], y[past], REFERENCE)
        methods: dict[str, tuple[Method, Callable[[], None]]] = {
            "finetune": (Finetune(raw.mlp(), fit), plain),
            "ewc": (EWC(raw.mlp(), fit, lam=1.0, fisher_examples=1), plain),  # the Fisher is timed by itself
            "si": (SI(raw.mlp(), fit), plain),
            "er": (ER(raw.mlp(), fit), doubled),
            "a-gem": (AGEM(raw.mlp(), few, per_class=MEMORIES // 10, reference=REFERENCE), beside),
        }
        for label, (method, yardstick) in methods.items():
            state, _ = method.learn(method.init(0), task._replace(id=stream[0].id), 0)  # the second is timed: all is on
            name = f"{label}, batch {batch}"
            out[name] = ratio(partial(method.learn, state, task, key), yardstick, rounds)
            print(name, out[name], flush=True)
    net, n = nets.build("resnet18:20", (3, 32, 32), 10), max(2, steps[10] // 100)
    photos = torch.rand(10 * n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = Finetune(net, Fit(optimizer="sgd", lr=LR, steps=n, batch=10))
    out[PHOTOS] = ratio(
        partial(method.learn, method.init(0), Task(Arrays(photos, y[: 10 * n]), stream[0].id), key),
        partial(raw.train, net[1:], photos, y, 10, LR, n),
        rounds,
    )
    print(PHOTOS, out[PHOTOS], flush=True)
    method = Finetune(raw.mlp(), Fit(compete="seen"))
    state, examples = method.init(0), task.examples
    for batch in steps:
        epoch, n = 60_000 // batch, steps[batch]
        name = f"exact Fisher of all examples, in training epochs (batch {batch})"
        out[name] = {
            figure: value * n / epoch
            for figure, value in ratio(
                lambda: diagonal(method.net, state, examples, "exact", key),
                partial(raw.train, raw.mlp(), x, y, batch, LR, n),
                rounds,
            ).items()
        }
        print(name, out[name], flush=True)
    exam, net = stream.exams[1], raw.mlp()
    bare = exam.examples.take(torch.arange(len(exam.examples)))
    out["exam"] = ratio(
        lambda: examine(method, state, exam, Scenario.GNS),
        lambda: raw.examine(net, bare.x, bare.y, BATCH),
        rounds * 5,
    )
    print("exam", out["exam"], flush=True)
    return out, data


def supermasks(steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """Ratios of LeNet-300-100 with 100 outputs under masks, and of the search for a cut-off."""
    images, _ = base()
    stream, out = permuted(images, tasks=1), {}
    x, y = stream[0].examples.take(torch.arange(60_000)).x.flatten(1), images.train.labels
    task, exam = Task(Arrays(x, y), stream[0].id), stream.exams[0]
    fit, lenet = Fit(optimizer="rmsprop", lr=1e-4, steps=steps, batch=128), partial(raw.mlp, 300, 100)
    dense = partial(raw.train, lenet(100), x, y, 128, fit.lr, steps, torch.optim.RMSprop)
    for rule in ("threshold", "largest"):
        method = SupSup(lenet(), fit, rule=rule)
        learn = partial(method.learn, method.init(0), task, 1)
        out[f"supsup, {rule}, 1,000 steps"] = ratio(learn, dense, rounds)
    ready, plain = method.ready(learn()[0]), Finetune(lenet())
    out["exam by a mask, of an exam by weights"] = ratio(
        partial(examine, method, ready, exam, Scenario.GG),
        partial(examine, plain, plain.init(0), exam, Scenario.GG),
        rounds * 5,
    )
    scores = torch.randn(1536, 1536, generator=torch.Generator().manual_seed(0))
    for density in (0.02, 0.5):
        m = int(density * scores.numel())
        name = f"mask of the largest of 2.36 M scores, density {density:g}, of a sort"
        out[name] = ratio(
            lambda m=m: scores.abs() >= threshold(scores, m), lambda m=m: raw.largest(scores.flatten(), m), rounds * 5
        )
    for name, figures in out.items():
        print(name, figures, flush=True)
    return out


def one_shot(rounds: int) -> dict[str, float]:
    """Least milliseconds an image to answer without the id, by one gradient over random masks, on two threads."""
    method, threads = SupSup(raw.mlp(300, 100)), torch.get_num_threads()
    state, x = method.init(0), torch.randn(128, 784, generator=torch.Generator().manual_seed(0))
    for place in range(MASKS):
        masks = {name: scores >= 0 for name, scores in start_scores(method.wide, place).items()}
        state = method.add(state, TaskId(place, torch.arange(10)), masks, {})
    ready, out = method.ready(state), {}
    torch.set_num_threads(2)
    for name, part in zip(MILLISECONDS, (x[:1], x), strict=False):  # the others are of something else
        method.predict(ready, part)
        out[name] = 1000 * min(seconds(partial(method.predict, ready, part)) for _ in range(rounds * 5)) / len(part)
    torch.set_num_threads(threads)
    return out


def on_disk(rounds: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Ratios of predictions by a learner of three tasks, and milliseconds that an update takes besides its method."""
    digits, ratios, besides = load("digits"), {}, []
    x, y = digits.train.x.flatten(1), digits.train.labels.numpy()
    many = x.repeat(10_000 // len(x) + 1, 1)[:10_000]
    for method in ("er", "supsup"):
        with TemporaryDirectory() as home:
            learner = Learner.create(Path(home) / "learner", method, policy=Policy(1.0, 1.0))
            for task in range(3):
                report = learner.learn((x[y // 3 == task], y[y // 3 == task]), f"task {task}")
                besides.append(1000 * report.seconds["rest"])
            (branch,) = learner.version.branches
            own = learner.settings.suited(branch.signature.shape)
            ready, shift, factor = own.ready(branch.state), float(branch.shift), float(branch.factor)

            def answers(
                own: Method = own, ready: object = ready, shift: float = shift, factor: float = factor
            ) -> torch.Tensor:
                parts = (own.predict(ready, (part - shift) * factor) for part in many.split(BATCH))
                return torch.cat([part.labels[part.logits.argmax(1)] for part in parts])

            name = f"{method} on disk, 10,000 predictions"
            ratios[name] = ratio(partial(learner.predict, many), answers, rounds * 5)
            print(name, ratios[name], flush=True)
    return ratios, {BESIDES: max(besides)}


MEMORY = """
import sys
import torch

def size(what):  # of this process, in bytes; VmHWM is its peak
    return int(open("/proc/self/status").read().split(what + ":")[1].split()[0]) * 1024

before = size("VmHWM")
from bench.__main__ import base, raw, LR, Fit, Finetune, EWC, ER, permuted
from perdure.fold import Setting
import perdure
images, _ = base()
method, options = {"finetune": (Finetune, {}), "ewc": (EWC, {"lam": 1.0}), "er": (ER, {})}[sys.argv[1]]
net = raw.mlp()
fit = Fit(optimizer="sgd", lr=LR, steps=200, batch=128)
grown = []
def watch(moment):
    if moment.doing == "learned":
        grown.append(size("VmRSS"))
method = method(net, fit, **options)
setting = Setting(exam_rows="last", exam_examples=1000)
perdure.live(method, permuted(images, tasks=int(sys.argv[2])), setting=setting, watch=watch)
data = sum(part.x.numel() * part.x.element_size() for part in (images.train, images.exam))
params = sum(p.numel() * 4 for p in net.parameters())
print(size("VmHWM") - before, data, params, grown[4], grown[-1])
"""


def memory(tasks: int) -> dict[str, dict[str, float]]:
    """Peak memory over an import of torch, and growth from the fifth task to the last, in a process of their own."""
    out = {}
    for method in ("finetune", "ewc", "er"):
        words = [sys.executable, "-c", MEMORY, method, str(tasks)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        peak, data, params, early, late = map(int, done.stdout.split())
        out[method] = {
            "peak_bytes": peak,
            "bound_bytes": data + 6 * params + 200 * 10**6,
            "growth_bytes_from_task_5": late - early,
            "tasks": tasks,
        }
        print(method, out[method], flush=True)
    return out


def main() -> None:
    """Runs everything, prints ratios beside their bounds, and adds a file to `bench/history/`."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="on both sides")
    parser.add_argument("--no-memory", action="store_true", help="ratios only")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, and nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    part = 10 if given.quick else 1
    ratios, data = speed({10: 3000 // part, 128: 469 // part}, given.rounds)
    ratios |= remembering(part, given.rounds)
    ratios |= supermasks(1000 // part, given.rounds)
    milliseconds = one_shot(given.rounds)
    predictions, besides = on_disk(given.rounds)
    ratios, milliseconds = ratios | predictions, milliseconds | besides | herding(given.rounds)
    figures = {name: each["ratio"] for name, each in ratios.items()} | milliseconds
    for name, bound in (BOUNDS | MILLISECONDS).items():
        unit, kept = " ms" * (name in MILLISECONDS), "kept" if figures[name] <= bound else "MISSED"
        print(f"{name:64s} {figures[name]:6.3f}{unit}  bound {bound:.2f}{unit}  {kept}")
    if given.quick:
        return
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "commit": _commit(),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": given.threads},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "data": data,
        "bounds": BOUNDS,
        "ratios": ratios,
        "milliseconds": {"threads": 2, "bounds": MILLISECONDS, "measured": milliseconds},
    }
    history = Path(__file__).parent / "history" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    history.write_text(json.dumps(record, indent=1) + "\n")  # before the long part, so that nothing is lost with it
    if not given.no_memory:
        history.write_text(json.dumps(record | {"memory": memory(50)}, indent=1) + "\n")


def _commit() -> str:
    words = ["git", "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
