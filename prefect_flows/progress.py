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
Advance = Callable[[int, int | None], None]

_lock = threading.Lock()
# The display that is shown, once for each step that uses it.
_display: list[Progress] = []


@contextmanager
def progress(what: str, unit: str, log: Log) -> Iterator[Advance]:
    """Show the progress of a step.

    Args:
        what: the step, for example `Landing 2021-01`.
        unit: what is counted, for example `rows`.
        log: takes a line where standard error is no terminal.

    Yields:
        A function to call with the amount so far and, where it is known, in all.
    """
    started = time.monotonic()
    if sys.stderr.isatty():
        with _bars() as bars:
            task = bars.add_task(what, total=None, unit=unit, rate=0.0)

            def show(done: int, total: int | None = None) -> None:
                bars.update(task, completed=done, total=total, rate=_rate(done, started))

            yield show
        return

    said = started

    def tell(done: int, total: int | None = None) -> None:
        nonlocal said
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            of = f" of {total:,}" if total else ""
            log(f"{what}: {done:,}{of} {unit} ({_rate(done, started):,.0f}/s)")

    yield tell


@contextmanager
def _bars() -> Iterator[Progress]:
    """The terminal's progress display, one for all months that go on at once: a terminal has room for one only."""
    with _lock:
        if not _display:
            rate = TextColumn("{task.completed:,.0f} {task.fields[unit]} ({task.fields[rate]:,.0f}/s)")
            bars = Progress(
                TextColumn("{task.description}"), BarColumn(), rate, TimeElapsedColumn(), console=Console(stderr=True)
            )
            bars.start()
        else:
            bars = _display[0]
        _display.append(bars)
    try:
        yield bars
    finally:
        with _lock:
            _display.pop()
            if not _display:
                bars.stop()


def _rate(done: int, started: float) -> float:
    return done / max(time.monotonic() - started, 1e-3)
