"""The sample month: its format, its content, its facts by independent counts, and that its bytes stay."""

import csv
import gzip
import hashlib
import io
import re
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped, unused-ignore]
import pytest

from prefect_flows.sample import SampleFacts, write_sample

HEADER = (
    b"VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,passenger_count,trip_distance,RatecodeID,"
    b"store_and_fwd_flag,PULocationID,DOLocationID,payment_type,fare_amount,extra,mta_tax,tip_amount,"
    b"tolls_amount,improvement_surcharge,total_amount,congestion_surcharge"
)
UNKNOWN_COLUMNS = ("VendorID", "passenger_count", "RatecodeID", "store_and_fwd_flag", "payment_type")
PARTS = ("fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount", "improvement_surcharge")
SUMS = ("passenger_count", "trip_distance", "fare_amount", "total_amount")
FAULTS = ("too few fields", "too many fields", "stray quote", "not UTF-8", "NUL byte")


class Sample:
    """A sample file taken apart by nothing but line splitting, byte checks and Python's csv module."""

    def __init__(self, path: Path, facts: SampleFacts) -> None:
        """Take the file at `path` apart; `facts` is what its writer says of it."""
        self.path, self.facts = path, facts
        self.bytes = path.read_bytes()
        self.header, *self.lines = self.bytes.removesuffix(b"\n").split(b"\n")
        self.faults = {number: fault for number, line in enumerate(self.lines) if (fault := fault_of(line))}
        self.sound = [line for number, line in enumerate(self.lines) if number not in self.faults]
        text = b"\n".join([self.header, *self.sound]).decode()
        self.rows = list(csv.DictReader(io.StringIO(text), strict=True))
        self.known = [row for row in self.rows if row["passenger_count"]]


def fault_of(line: bytes) -> str | None:
    """What is wrong with a line that a line-wise reader has to reject, or None."""
    if b"\0" in line:
        return "NUL byte"
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    if text.count('"') % 2:
        return "stray quote"
    fields = next(csv.reader([text]))
    if len(fields) < 18:
        return "too few fields"
    return "too many fields" if any(fields[18:]) else None


def write(path: Path, month: str = "2021-01", /, **options: int) -> Sample:
    """A sample at `path`, taken apart."""
    return Sample(path, write_sample(path, month, **options))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A sample large enough for the rare values."""
    return write(tmp_path_factory.mktemp("sample") / "month.csv", rows=50_000)


def test_file_is_in_the_format_of_2021(sample: Sample) -> None:
    """Else the sample is no stand-in for a published file."""
    assert sample.header == HEADER
    assert len(sample.lines) == 50_000
    assert sample.bytes.endswith(b"\n")
    assert b"\r" not in sample.bytes
    assert all(sample.lines)
    assert {line.count(b",") for line in sample.sound} == {17}


def test_values_are_spelled_as_the_tlc_spells_them(sample: Sample) -> None:
    """Else casts are tried on easier text than the published one."""
    code, money = r"\d+", r"-?(0|[1-9]\d*)(\.\d?[1-9])?"
    spelling = dict.fromkeys(HEADER.decode().split(","), money) | {
        "VendorID": code,
        "tpep_pickup_datetime": r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d",
        "tpep_dropoff_datetime": r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d",
        "passenger_count": code,
        "trip_distance": r"([1-9]\d*)?\.\d\d",
        "RatecodeID": code,
        "store_and_fwd_flag": "[NY]",
        "PULocationID": code,
        "DOLocationID": code,
        "payment_type": code,
    }
    for name, pattern in spelling.items():
        seen = {row[name] for row in sample.known}
        assert [text for text in seen if not re.fullmatch(pattern, text)] == [], name
    assert {".20", "2.10", ".00"} <= {row["trip_distance"] for row in sample.known}
    assert {"8", "16.5", "52"} <= {row["fare_amount"] for row in sample.known}


@pytest.mark.parametrize(
    "options",
    [
        {"rows": 20_000},
        {"rows": 2_000, "unknown": 301, "broken": 900},
        {"rows": 210_000, "unknown": 105_000},
        {"rows": 6, "unknown": 0, "broken": 5},
        {"rows": 10, "unknown": 10, "broken": 0},
        {"rows": 0, "broken": 0},
    ],
    ids=str,
)
def test_facts_equal_an_independent_count(tmp_path: Path, options: dict[str, int]) -> None:
    """Else every test that holds a load to the facts proves nothing."""
    made = write(tmp_path / "month.csv", **options)
    facts, kept = made.facts, [row for row in made.rows if row["passenger_count"] != "0"]
    sums = {name: sum(Decimal(row[name] or "0") for row in kept) for name in SUMS}
    assert facts == SampleFacts(
        path=made.path,
        month="2021-01",
        rows=options["rows"],
        broken=options.get("broken", 5),
        zero_passengers=len(made.rows) - len(kept),
        unknown_passengers=len(made.rows) - len(made.known),
        trips=len(kept),
        passenger_count=int(sums["passenger_count"]),
        trip_distance=float(sums["trip_distance"]),
        fare_amount=float(sums["fare_amount"]),
        total_amount=float(sums["total_amount"]),
    )
    assert len(made.rows) == facts.rows - facts.broken == facts.trips + facts.zero_passengers
    assert 0 not in made.faults


def test_facts_equal_what_pandas_keeps(sample: Sample) -> None:
    """Else the facts do not follow the rule that `trip_data` is defined by."""
    df = pd.read_csv(io.BytesIO(b"\n".join([sample.header, *sample.sound])), dtype={"store_and_fwd_flag": str})
    df = df[df["passenger_count"] != 0]
    assert len(df) == sample.facts.trips < len(sample.sound)
    for name in SUMS:
        assert round(float(df[name].sum()), 2) == getattr(sample.facts, name)


def test_same_arguments_give_the_same_bytes(sample: Sample, tmp_path: Path) -> None:
    """Else a load is not known again by its content, or a seed has no effect."""
    assert write(tmp_path / "again.csv", rows=50_000).bytes == sample.bytes
    fares = {
        tuple(row["fare_amount"] for row in write(tmp_path / "other.csv", month, rows=500, seed=seed).rows)
        for month, seed in (("2021-01", 2021), ("2021-01", 7), ("2021-03", 2021))
    }
    assert len(fares) == 3


def test_bytes_do_not_depend_on_the_platform(tmp_path: Path) -> None:
    """Else numbers noted from a sample hold on one machine only. Pin anew after a change made on purpose."""
    assert (
        hashlib.sha256(write(tmp_path / "month.csv", rows=1_000).bytes).hexdigest()
        == "8b2a29f28ffca10ced74758b9cdc424bfc5f74037e85aa93e5c87a7ede7fc57d"
    )


def test_gzip_holds_the_plain_bytes_and_no_name_or_time(sample: Sample, tmp_path: Path) -> None:
    """Else the packed sample differs with the time or place of writing."""
    packed, renamed = tmp_path / "month.csv.gz", tmp_path / "renamed.csv.gz"
    write_sample(packed, "2021-01", rows=50_000)
    write_sample(renamed, "2021-01", rows=50_000)
    assert gzip.decompress(packed.read_bytes()) == sample.bytes
    assert packed.read_bytes() == renamed.read_bytes()
    # RFC 1952: no flag set (so no file name), modification time 0.
    assert packed.read_bytes()[:8] == b"\x1f\x8b\x08\x00" + bytes(4)


def test_every_broken_line_is_broken_in_its_turn(tmp_path: Path) -> None:
    """Else a broken line is a row after all, or a kind of fault goes untested."""
    made = write(tmp_path / "month.csv", rows=5_000, unknown=1_000, broken=12)
    assert list(made.faults.values()) == [FAULTS[nth % 5] for nth in range(12)]
    numbers = list(made.faults)
    assert min(numbers) > 0
    assert max(numbers) < 4_000
    assert min(np.diff(numbers)) > 100


def test_no_line_is_broken_when_none_shall_be(tmp_path: Path) -> None:
    """Else there is no clean month to compare with."""
    assert write(tmp_path / "month.csv", rows=5_000, broken=0).faults == {}


def test_unknown_block_is_at_the_end_and_only_there(sample: Sample) -> None:
    """Else the rows that SQL would drop unseen are not those of the real file."""
    size = sample.facts.unknown_passengers
    assert size == round(50_000 * 98_352 / 1_369_765)
    for number, row in enumerate(sample.rows):
        empty = {name for name, text in row.items() if not text}
        assert empty == (set(UNKNOWN_COLUMNS) if number >= len(sample.rows) - size else set()), number
    assert all(Decimal(row["fare_amount"]) > 0 for row in sample.rows[-size:])


def test_codes_are_those_of_the_dictionary(sample: Sample) -> None:
    """Else the gate refuses the sample, or a code is never tried."""
    seen = {name: {row[name] for row in sample.known} for name in sample.known[0]}
    assert seen["VendorID"] == set("12")
    assert seen["passenger_count"] == set("0123456")
    assert seen["RatecodeID"] == {*"123456", "99"}
    assert seen["store_and_fwd_flag"] == set("NY")
    assert seen["payment_type"] == set("1234")
    assert seen["PULocationID"] | seen["DOLocationID"] == {str(zone) for zone in range(1, 266)}
    assert {row["fare_amount"] for row in sample.known if row["RatecodeID"] == "2"} <= {"52", "-52"}


def test_refunds_are_of_vendor_2_only(sample: Sample) -> None:
    """Else refunds are not told from errors as in the published file."""
    refunds = [row for row in sample.rows if row["fare_amount"].startswith("-")]
    assert {row["VendorID"] for row in refunds} == {"2"}
    assert len(refunds) / len(sample.known) == pytest.approx(0.009, abs=0.002)
    assert {row["payment_type"] for row in refunds} == set("234")


def test_parts_add_up_to_the_total_by_vendor(sample: Sample) -> None:
    """Vendor 1's extra holds the congestion surcharge; else a right test of the parts fails on the sample."""
    naive = 0
    for row in sample.rows:
        parts = sum((Decimal(row[name]) for name in PARTS), Decimal(0))
        congestion, total = Decimal(row["congestion_surcharge"]), Decimal(row["total_amount"])
        due = parts if row["VendorID"] == "1" else parts + congestion
        assert abs(total - due) <= Decimal("0.011"), row
        naive += total != parts + congestion
        assert row["VendorID"] or congestion == 0
    assert naive > 0.2 * len(sample.rows)


def test_trips_take_time_and_lie_in_the_month(tmp_path: Path) -> None:
    """Else the gate refuses the sample, or its days have gaps."""
    made = write(tmp_path / "month.csv", "2020-02", rows=50_000)
    pickups = [datetime.fromisoformat(row["tpep_pickup_datetime"]) for row in made.known]
    dropoffs = [datetime.fromisoformat(row["tpep_dropoff_datetime"]) for row in made.known]
    seconds = [(end - start).total_seconds() for start, end in zip(pickups, dropoffs, strict=True)]
    assert min(seconds) > 0
    inside = [at for at in pickups if (at.year, at.month) == (2020, 2)]
    assert 1 - len(inside) / len(pickups) == pytest.approx(0.0007, abs=0.0004)
    assert {at.day for at in inside} == set(range(1, 30))
    by_hour = Counter(at.hour for at in inside)
    assert len(by_hour) == 24
    assert by_hour[18] > 5 * by_hour[4]
    miles = [float(row["trip_distance"]) for row in made.known]
    fast = sum(mile / second > 100 / 3_600 for mile, second in zip(miles, seconds, strict=True))
    assert 0 < fast < 0.002 * len(miles)


def test_shares_are_those_of_the_published_month(sample: Sample) -> None:
    """Else limits tuned on the sample are wrong for a real month."""
    total = len(sample.known)
    vendors = Counter(row["VendorID"] for row in sample.known)
    assert vendors["2"] / total == pytest.approx(0.69, abs=0.02)
    assert sample.facts.zero_passengers / total == pytest.approx(0.021, abs=0.003)
    assert sum(row["trip_distance"] == ".00" for row in sample.known) / total == pytest.approx(0.015, abs=0.003)
    assert sum(row["store_and_fwd_flag"] == "Y" for row in sample.known) / total == pytest.approx(0.017, abs=0.003)
    assert sum(row["tolls_amount"] == "6.12" for row in sample.known) / total == pytest.approx(0.043, abs=0.01)
    assert {row["congestion_surcharge"] for row in sample.known} == {"2.5", "0", "-2.5"}


@pytest.mark.parametrize(
    "options",
    [
        {"rows": -1, "unknown": 0, "broken": 0},
        {"rows": 10, "unknown": -1},
        {"rows": 10, "broken": -1},
        {"rows": 10, "unknown": 11, "broken": 0},
        {"rows": 5, "unknown": 0, "broken": 5},
        {"rows": 10, "unknown": 5, "broken": 5},
        {"rows": 10, "unknown": 10, "broken": 1},
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path, options: dict[str, int]) -> None:
    """Else a wrong size destroys the file that was there."""
    with pytest.raises(ValueError, match="cannot hold"):
        write_sample(tmp_path / "month.csv", "2021-01", **options)
    assert list(tmp_path.iterdir()) == []
