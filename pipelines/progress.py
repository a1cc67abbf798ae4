"""Progress with a rate and the time left: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts towards `total` units of work and shows `items` (images, say) per second beside it.

    `label` names the step and `noun` what the items are. Safe to advance from several threads.
    """

    def __init__(self, label: str, total: int, noun: str) -> None:
        self._label = label
        self._noun = noun
        self._items = 0
        self._lock = threading.Lock()
        self._started = self._last_line = time.monotonic()
        bar = "{desc} {percentage:3.0f}% |{bar}| {postfix} [{elapsed}<{remaining}]"
        self._bar = tqdm(total=total, desc=label, disable=not sys.stderr.isatty(), bar_format=bar)
        self._done = 0
        self._total = total

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if kind is None:
            logger.info("%s", self._line())

    def advance(self, work: int, items: int = 0) -> None:
        """`work` units towards the total are done, in which `items` were handled."""
        with self._lock:
            self._done = min(self._total, self._done + work)
            self._items += items
            self._bar.set_postfix_str(self._rate(), refresh=False)
            self._bar.update(self._done - self._bar.n)
            if self._bar.disable and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
                self._last_line = time.monotonic()
                logger.info("%s", self._line())

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        if 0 < self._items < seconds:  # models, say, of which one takes minutes
            return f"{self._items:,} {self._noun}, {seconds / self._items:,.1f} s each"
        return f"{self._items:,} {self._noun}, {self._items / seconds:,.0f}/s"

    def _line(self) -> str:
        seconds = time.monotonic() - self._started
        share = self._done / self._total if self._total else 1.0
        left = seconds * (1 - share) / share if share else float("nan")
        times = f"{tqdm.format_interval(seconds)} so far"
        if 0 < share < 1:
            times += f", {tqdm.format_interval(left)} left"
        return f"{self._label}: {share:.0%}, {self._rate()}, {times}"
