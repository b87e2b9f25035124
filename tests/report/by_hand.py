"""Results made by hand."""

from typing import Any

import numpy as np

from perdure.result import Result


def forgetful(T: int, slope: float = 0.2) -> np.ndarray:
    """R of a learner that reaches 0.95 on every task and loses `slope` of it with each task after."""
    i, j = np.arange(T + 1)[:, None], np.arange(1, T + 1)[None, :]
    return np.where(i < j, 0.1, np.maximum(0.1, 0.95 - slope * (i - j)))


def make(
    R: Any = None,
    method: str = "finetune",
    *,
    given: Any = None,
    seed: int = 0,
    parts: dict[str, int] | None = None,
    growth: int = 0,
    fit: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **more: Any,
) -> Result:
    R = forgetful(3) if R is None else np.array(R, dtype=np.float64)
    T = R.shape[1]
    components = [{**(parts or {"model": 1000}), **({"memory": growth * t} if growth and t else {})} for t in range(T)]
    live = [sum(after.values()) for after in components]
    record = {
        "experiment": {
            "stream": "permuted-digits",
            "method": method,
            "net": "mlp:8",
            "seeds": [seed],
            "options": options or {},
            "setting": {"threads": 1, "exam_rows": "all"},
        },
        "fit": fit or {"lr": 0.001},
        "versions": {"perdure": "0.1.0"},
        "machine": {"processor": "x86_64"},
        "command": f"perdure run permuted-digits {method} --seed {seed}",
    }
    known: dict[str, Any] = {
        "stream": "permuted-digits",
        "method": method,
        "scenario": "gns",
        "seed": seed,
        "tasks": T,
        "R": R,
        "R_given": R if given is None else np.array(given, dtype=np.float64),
        "learned": T,
        "finished": True,
        "losses": [[2.0, 1.0, 0.5]] * T,
        "learn_seconds_by_call": [1.0] * T,
        "exam_seconds_by_row": [0.1] * (T + 1),
        "state_bytes_by_task": live,
        "stored_bytes_by_task": [size + 100 for size in live],
        "components_by_task": components,
        "options": record,
    }
    return Result(**{**known, **more})
