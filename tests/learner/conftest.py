"""Learners in folders that pass."""

from pathlib import Path
from typing import Any

import pytest
from clouds import QUICK, Make

from perdure.learner import Learner


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a small learner in tmp_path/learner, or in a folder of another name there."""

    def create(name: str = "learner", **settings: Any) -> Learner:
        options = QUICK | settings.pop("options", {})
        given = {"method": "heads", "net": "mlp:16", "options": options} | settings
        return Learner.create(tmp_path / name, **given)

    return create
