"""The learner on disk: your own data, a task at a time."""

from perdure.learner.learner import Learner
from perdure.learner.ledger import Entry
from perdure.learner.policy import Change, Policy
from perdure.learner.report import Check, Explanation, Report
from perdure.program import Program

__all__ = ["Change", "Check", "Entry", "Explanation", "Learner", "Policy", "Program", "Report"]
