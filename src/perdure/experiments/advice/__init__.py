"""Advice: which method suits, from what may be stored and what will be known."""

from perdure.experiments.advice.advice import Advice, Advised, advise
from perdure.experiments.advice.needs import Needs

__all__ = ["Advice", "Advised", "Needs", "advise"]
