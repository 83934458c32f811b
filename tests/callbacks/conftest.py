"""A clock of training seconds that tests turn by hand."""

from __future__ import annotations

import pytest

import callbacks.schedules.training_seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """One number: the seconds that it shows."""
    now = [0.0]
    monkeypatch.setattr(callbacks.schedules.training_seconds, "_now", lambda device: now[0])
    return now
