"""Where a stored measurement comes from: the commit of the code and the day."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path


def commit() -> str | None:
    """The commit of the code that runs; None outside a repository."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def today() -> str:
    """The date, in UTC: 2026-01-31."""
    return datetime.now(UTC).date().isoformat()
