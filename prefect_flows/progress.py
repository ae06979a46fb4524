"""Says how far a long step is: a moving line on a terminal, a log line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 5.0

Log = Callable[[str], None]
OnShare = Callable[[float], None]
Advance = Callable[[int, float | None], None]

_lock = threading.Lock()
# The display that is shown, once for each step that uses it.
_display: list[Progress] = []


@contextmanager
def progress(what: str, unit: str, log: Log, on_share: OnShare | None = None) -> Iterator[Advance]:
    """Show the progress of a step.

    Args:
        what: the step, for example `Landing 2021-01`.
        unit: what is counted, for example `rows`.
        log: takes a line where standard error is no terminal.
        on_share: told now and then the share that is done, from 0 to 1, where it is known.

    Yields:
        A function to call with the amount so far and, where it is known, the share of the whole that it is.
    """
    started = told = time.monotonic()
    is_terminal = sys.stderr.isatty()
    with _bar(what, unit) if is_terminal else _no_bar() as show:

        def advance(done: int, share: float | None = None) -> None:
            nonlocal told
            rate = done / max(time.monotonic() - started, 1e-3)
            show(done, share, rate)
            if time.monotonic() - told < SECONDS_BETWEEN_LINES:
                return
            told = time.monotonic()
            if not is_terminal:
                log(f"{what}: {done:,} {unit}{f', {share:.0%}' if share else ''} ({rate:,.0f}/s)")
            if on_share and share:
                on_share(share)

        yield advance


Show = Callable[[int, float | None, float], None]


@contextmanager
def _no_bar() -> Iterator[Show]:
    yield lambda done, share, rate: None


@contextmanager
def _bar(what: str, unit: str) -> Iterator[Show]:
    """A line of the terminal's progress display, one for all months at once: a terminal has room for one only."""
    with _lock:
        if not _display:
            rate = TextColumn("{task.fields[done]:,} {task.fields[unit]} ({task.fields[rate]:,.0f}/s)")
            bars = Progress(
                TextColumn("{task.description}"), BarColumn(), rate, TimeElapsedColumn(), console=Console(stderr=True)
            )
            bars.start()
        else:
            bars = _display[0]
        _display.append(bars)
    task = bars.add_task(what, total=None, unit=unit, done=0, rate=0.0)
    try:
        yield lambda done, share, rate: bars.update(
            task, completed=share or 0, total=1 if share else None, done=done, rate=rate
        )
    finally:
        with _lock:
            _display.pop()
            if not _display:
                bars.stop()
