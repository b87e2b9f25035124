"""The doctor's findings on threads, devices, data, disk and speed, as plain data."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.contract import Fit, Task
from perdure.data import Arrays
from perdure.datasets import BASES, folder, idx, npz, roots
from perdure.fold import SMALL, Setting
from perdure.model import start
from perdure.train import minimise

SECONDS = 5.0  # of the speed check
STEPS, BATCH = 50, 128  # of one of its rounds


def threads() -> dict[str, int]:
    """Cores, torch's own choice, and what a run takes when --threads is not given, by size of the network."""
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    setting, small, large = Setting(), nn.Linear(1, 1), nn.Linear(1000, SMALL // 1000, device="meta")
    return {
        "cores": free,
        "torch": torch.get_num_threads(),
        "run_of_a_small_net": setting.threads_for(small),
        "run_of_a_large_net": setting.threads_for(large),
    }


def devices() -> list[str]:
    """What a run can use, the one it takes first."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [*(f"cuda:{i}, {torch.cuda.get_device_name(i)}" for i in range(count)), "cpu"]


def data() -> dict[str, Any]:
    """The data roots, and where each base was found; None for one that was not, with what is missing.

    Files with a known sum are read whole and checked; nothing is downloaded.
    """
    places = roots.places()
    others = folder.folders(places) | npz.files(places)
    return {
        "roots": [{"path": str(root), "there": root.is_dir()} for root in places],
        "bases": {name: _base(name, places) for name in BASES},
        "others": {name: str(path) for name, path in others.items() if name not in BASES},
    }


def _base(name: str, places: tuple[Path, ...]) -> dict[str, Any]:
    if name == "digits":
        return {"found": "in scikit-learn", "fault": ""}
    if name in idx.SOURCES:
        return _images(name, places)
    if name in (files := npz.files(places)):
        return {"found": str(files[name]), "fault": ""}
    homes = [root / name for root in places if (root / name / "train_y.npy").is_file()]
    return {"found": str(homes[0]) if homes else None, "fault": "" if homes else f"no {name}.npz and no {name}/"}


def _images(name: str, places: tuple[Path, ...]) -> dict[str, Any]:
    """A base of four IDX files, each from the first root that has it whole."""
    homes, faults, absent = list[Path](), list[str](), list[str]()
    for file, known in zip(idx.FILES, idx.SOURCES[name].sums, strict=True):
        for path in [root / name / part for root in places for part in (file, f"{file}.gz")]:
            if path.is_file():
                try:
                    roots.unpacked(path, known)
                except (OSError, roots.Damaged) as error:
                    faults.append(str(error))
                    continue
                homes.append(path.parent)
                break
        else:
            absent.append(file)
    if absent and idx.SOURCES[name].sums[0] is None and absent == list(idx.FILES[:2]):
        faults.append("its training part is missing, so its test part is split 80/20")
    elif absent:
        return {"found": None, "fault": "; ".join([*faults, f"no usable {', '.join(absent)}"])}
    return {"found": str(homes[-1]), "fault": "; ".join(faults)}


def disk(folder: Path = Path("runs")) -> dict[str, Any]:
    """Where runs are kept, whether it can be written, and how many bytes are free there."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return {
        "folder": str(folder.absolute()),
        "writable": there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        "free": shutil.disk_usage(there).free,
    }


def _raw(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """The loop that a person would write by hand."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    done = 0
    while done < STEPS:
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            done += 1


def speed(seconds: float = SECONDS) -> dict[str, float]:
    """Microseconds a step of a loop by hand and of the library's, measured in turn, and the ratio of their medians.

    784-256-256-10, batches of 128, plain SGD, the threads that a run takes.
    """
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(STEPS * BATCH, 784, generator=generator), torch.randint(10, (STEPS * BATCH,), generator=generator)
    fit, task = Fit(optimizer="sgd", lr=0.01, steps=STEPS, batch=BATCH), Task(Arrays(x, y), None)
    rounds: dict[str, list[float]] = {"raw": [], "perdure": []}
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it was
        net = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
        model = start(net, fit, 0)
        loops: dict[str, Callable[[], object]] = {
            "raw": lambda: _raw(net, x, y),
            "perdure": lambda: minimise(net, model, fit, task, 0),
        }
        with Setting(device="cpu").applied(net):
            for loop in loops.values():  # warm
                loop()
            end = time.perf_counter() + seconds
            while not rounds["raw"] or time.perf_counter() < end:
                for name, loop in loops.items():
                    begun = time.perf_counter()
                    loop()
                    rounds[name].append((time.perf_counter() - begun) / STEPS * 1e6)
    raw, ours = median(rounds["raw"]), median(rounds["perdure"])
    return {"raw_us": round(raw, 1), "perdure_us": round(ours, 1), "ratio": round(ours / raw, 3)}


def works() -> str:
    """Learns and examines a tiny stream on the device that a run takes; what is wrong, or nothing."""
    from perdure.experiments.execution import run

    try:
        result = run("permuted-digits", "finetune", tasks=1, net="mlp:16", options={"fit.steps": 100})
    except Exception as error:  # whatever it is, it is what the user came to hear
        return f"{type(error).__name__}: {error}"
    return "" if result.acc > 0.3 else f"a tiny network learned only {100 * result.acc:.0f} % of the digits"
