"""Perdure: lifelong learning. One network learns task after task and keeps them.

import perdure
result = perdure.run("permuted-digits", "ewc", tasks=5, seed=0)
print(result.R, result.acc)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.contract import Answer, Fit, Method, Refused, Scenario, Task, TaskId, Trace
    from perdure.experiments import load, run
    from perdure.fold import live
    from perdure.learner import Learner, Policy
    from perdure.result import Result
    from perdure.streams.arrays import from_arrays
    from perdure.streams.stream import Stream

__version__ = "0.1.0"

_HOMES = {
    "Answer": "contract",
    "Fit": "contract",
    "Learner": "learner",
    "Method": "contract",
    "Policy": "learner",
    "Refused": "contract",
    "Result": "result",
    "Scenario": "contract",
    "Stream": "streams.stream",
    "Task": "contract",
    "TaskId": "contract",
    "Trace": "contract",
    "from_arrays": "streams.arrays",
    "live": "fold",
    "load": "experiments",
    "run": "experiments",
}
__all__ = [
    "Answer",
    "Fit",
    "Learner",
    "Method",
    "Policy",
    "Refused",
    "Result",
    "Scenario",
    "Stream",
    "Task",
    "TaskId",
    "Trace",
    "__version__",
    "from_arrays",
    "live",
    "load",
    "run",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when asked for: `perdure --help` needs no torch."""
    if name in _HOMES:
        return getattr(import_module(f"perdure.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'perdure' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What there is to ask for."""
    return __all__
