"""A month of the published size: nothing is lost, and the flow's memory stays bounded. Minutes: `make test-slow`."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefect_flows.sample import write_sample
from prefect_flows.settings import Settings
from tests.conftest import TARGETS
from tests.integration.conftest import PROJECT
from tests.integration.test_main_job import assert_same_as_pandas

pytestmark = [TARGETS, pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("prefect_environment")]

# As many rows, and as many without a number of passengers, as the published file of 2021-01.
ROWS, UNKNOWN = 1_369_765, 98_352
MEMORY_LIMIT = 700 << 10  # KiB


def test_full_size_month_keeps_every_row_in_bounded_memory(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = write_sample(tmp_path / "yellow_tripdata_2021-01.csv.gz", "2021-01", rows=ROWS, unknown=UNKNOWN)
    # Linux's own high-water mark of the process: getrusage would start from that of the process that forked it.
    program = (
        "import re, pathlib; from prefect_flows.flows import yellow_taxi; "
        f"(month,) = yellow_taxi({str(sample.path)!r}).months; "
        "status = pathlib.Path('/proc/self/status').read_text(); "
        "print(month.rows.trips, month.rows.unknown_kept, month.rows.zero_removed, month.rows.rejected,"
        " re.search(r'VmHWM:\\s+(\\d+) kB', status)[1], month.source.load_id)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr

    *figures, load_id = done.stdout.split()[-6:]
    trips, unknown, zero, rejected, peak = map(int, figures)
    with capsys.disabled():
        print(f"\n{settings.target}: {ROWS:,} rows in {seconds:.0f} s, peak memory {peak / 1024:,.0f} MB")
    assert (trips, unknown) == (sample.trips, UNKNOWN)
    assert trips + zero + rejected == ROWS
    assert_same_as_pandas(settings, sample.path, load_id)
    assert peak < MEMORY_LIMIT
