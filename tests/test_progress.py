"""What is said of progress where there is no terminal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipelines import progress


@pytest.mark.parametrize(
    ("seconds", "said"), [(4, "describe: 50%, 8 images, 2/s, 00:04 so far, 00:04 left"), (20, "8 images, 2.5 s each")]
)
def test_the_rate_is_per_second_or_the_time_of_each(
    seconds: float, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 1.0)
    with caplog.at_level("INFO"), progress.Progress("describe", 2, "images") as shown:
        now[0] = seconds
        shown.advance(1, 8)
    assert said in caplog.messages[0]
