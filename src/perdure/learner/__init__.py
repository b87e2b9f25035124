"""The learner on disk: your own data, a task at a time."""

from perdure.learner.learner import Check, Explanation, Learner, Report
from perdure.learner.ledger import Entry
from perdure.learner.policy import Change, Policy

__all__ = ["Change", "Check", "Entry", "Explanation", "Learner", "Policy", "Report"]
