"""Experiments: a stream, a method and options as plain data, published tables, and presets."""

from perdure.experiments.execution import continue_, execute, results_of, run
from perdure.experiments.experiment import Experiment, plan
from perdure.experiments.gather import gathered
from perdure.experiments.learned import Learned, load

__all__ = ["Experiment", "Learned", "continue_", "execute", "gathered", "load", "plan", "results_of", "run"]
