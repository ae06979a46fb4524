"""A made-up month of yellow-taxi trips in the TLC's CSV format of 2021; equal arguments give equal bytes.

Comes in: a path, a month and sizes. Goes out: a file that reads as a published one does, with some broken
lines, and the facts that a load of it must agree with. The format, the spelling of numbers, the code values
and their shares imitate the first 22,791 rows of the published file of 2021-01, the block at the end has the
size and the empty columns of that file's; its amounts, the day's curve and rate code 6 are made up. No row is
copied. What can go wrong: sizes that do not fit together, a path that cannot be written.
"""

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

HEADER = (
    "VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,passenger_count,trip_distance,RatecodeID,"
    "store_and_fwd_flag,PULocationID,DOLocationID,payment_type,fare_amount,extra,mta_tax,tip_amount,"
    "tolls_amount,improvement_surcharge,total_amount,congestion_surcharge"
)

Integers = npt.NDArray[np.int64]
Trips = dict[str, Integers]

_UNKNOWN_COLUMNS = ("VendorID", "passenger_count", "RatecodeID", "store_and_fwd_flag", "payment_type")
_UNKNOWN = -(2**63)  # no column has such a value
_CHUNK_ROWS = 100_000
_EPOCH = date(1970, 1, 1)
_DAY = 86_400


@dataclass(frozen=True)
class SampleFacts:
    """What a sample file holds.

    `rows` counts the data lines, the `broken` ones included. All else leaves the broken lines out:
    `zero_passengers` and `unknown_passengers` count lines by passenger_count, `trips` counts those that
    `trip_data` must hold (passenger_count is not zero, which includes unknown), and the sums are over these
    trips: passengers (unknown adds nothing), miles, dollars. The sums are exact in hundredths.
    """

    path: Path
    month: str
    rows: int
    broken: int
    zero_passengers: int
    unknown_passengers: int
    trips: int
    passenger_count: int
    trip_distance: float
    fare_amount: float
    total_amount: float


def write_sample(
    path: Path,
    month: str,
    *,
    rows: int = 100_000,
    unknown: int | None = None,
    broken: int = 5,
    seed: int = 2021,
) -> SampleFacts:
    """Write a sample month to `path`, over what is there; as gzip if the name ends in `.gz`.

    The same arguments give the same bytes on every platform, with the same numpy (and zlib, for gzip).

    Args:
        path: where to write; folders that are missing are made.
        month: `YYYY-MM`, already checked.
        rows: all data lines, the next two kinds included.
        unknown: lines at the very end without vendor, passengers, rate code, flag and payment type; by
            default as many in proportion as the published file of 2021-01 has, 98,352 of 1,369,765.
        broken: lines that are no rows, spread over the lines before those, never the first. In turn: cut
            off, with fields to spare, with a stray quote, not UTF-8, with a NUL byte.
        seed: 0 or more; another seed gives other trips.

    Raises:
        ValueError: a number is negative, or `rows` is too small for `unknown` and `broken`.
        OSError: the file cannot be written.
    """
    if unknown is None:
        unknown = round(rows * 98_352 / 1_369_765)
    known = rows - unknown
    if min(rows, known, unknown, broken) < 0 or broken > max(known - 1, 0):
        raise ValueError(f"{rows} rows cannot hold {unknown} unknown, {broken} broken and a sound first one")
    # The middles of equal stretches of lines 1 to known - 1; the first line is 0.
    faulty = [1 + (2 * n + 1) * (known - 1) // (2 * broken) for n in range(broken)]

    rng = np.random.default_rng([seed, int(month.replace("-", ""))])
    zero_passengers = 0
    sums = dict.fromkeys(("passenger_count", "trip_distance", "fare_amount", "total_amount"), 0)
    with _open(path) as file:
        file.write(HEADER.encode() + b"\n")
        first = 0
        for trips in _month(rng, month, known, unknown):
            lines = _lines(trips)
            sound = np.ones(len(lines), np.bool_)
            for nth, line in enumerate(faulty):
                if 0 <= (at := line - first) < len(lines):
                    lines[at] = _broken(lines[at], nth)
                    sound[at] = False
            file.write(b"\n".join(lines) + b"\n")
            first += len(lines)

            zero = trips["passenger_count"] == 0
            zero_passengers += int((sound & zero).sum())
            for name in sums:
                sums[name] += int(trips[name][sound & ~zero & (trips[name] != _UNKNOWN)].sum())

    return SampleFacts(
        path=path,
        month=month,
        rows=rows,
        broken=broken,
        zero_passengers=zero_passengers,
        unknown_passengers=unknown,
        trips=rows - broken - zero_passengers,
        passenger_count=sums["passenger_count"],
        trip_distance=sums["trip_distance"] / 100,
        fare_amount=sums["fare_amount"] / 100,
        total_amount=sums["total_amount"] / 100,
    )


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if path.suffix == ".gz":
            # A name or a time in the gzip header would make equal samples differ.
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                yield packed
        else:
            yield file


def _shares(weights: dict[int, int]) -> Integers:
    """A table to draw from: each value as often as its weight says."""
    return np.repeat(np.array(list(weights), np.int64), list(weights.values()))


def _quantiles(knots: dict[int, int]) -> Integers:
    """A table to draw from: the values at some per mille, and straight lines between them."""
    table: list[int] = []
    for (start, low), (stop, high) in pairwise(knots.items()):
        table += [low + (high - low) * (at - start) // (stop - start) for at in range(start, stop)]
    return np.array(table, np.int64)


# Everything is drawn from tables of integers, money and miles in hundredths: floating-point functions differ
# in their last bit from one platform to the next.
_VENDOR = _shares({1: 31, 2: 69})
_PASSENGERS_1 = _shares({0: 687, 1: 7_060, 2: 1_666, 3: 384, 4: 185, 5: 14, 6: 4})
_PASSENGERS_2 = _shares({0: 3, 1: 6_977, 2: 1_526, 3: 533, 4: 215, 5: 387, 6: 359})
_RATE = _shares({1: 96_760, 2: 2_090, 3: 120, 4: 90, 5: 900, 6: 20, 99: 20})
_FLAG_1 = _shares({0: 946, 1: 54})  # 1 is Y; vendor 2 hardly ever has it
_PAYMENT = _shares({1: 668, 2: 317, 3: 9, 4: 6})
_REFUND = _shares({0: 987, 1: 13})
_REFUND_PAYMENT = _shares({2: 22, 3: 29, 4: 49})
_BUSY_ZONES = (48, 68, 79, 107, 132, 138, 140, 141, 142, 161, 162, 170, 186, 230, 236, 237, 238, 239)
_ZONE = _shares(dict.fromkeys(range(1, 266), 10) | dict.fromkeys(_BUSY_ZONES, 200))
_MILES = _quantiles({0: 0, 14: 0, 15: 10, 250: 101, 500: 185, 750: 345, 900: 700, 950: 1_100, 990: 1_900, 1_000: 2_600})
_SPEED = _quantiles({0: 30, 50: 65, 250: 95, 500: 125, 750: 165, 950: 240, 1_000: 450})  # tenths of a mph
_ODD_CLOCK = _shares({0: 9_972, 1: 6, 2: 22})  # 1: dropped off at once, 2: almost a day later
_OTHER_MONTH = _shares({0: 9_993, -31: 4, -366: 2, 31: 1})  # days
_CONGESTION = _shares({0: 15, 250: 85})
_TOLLS = _shares({0: 640, 612: 345, 280: 5, 1_175: 6, 1_375: 4})
_TIP_PERCENT = _shares({0: 7, 10: 8, 15: 14, 18: 10, 20: 41, 22: 8, 25: 8, 30: 4})
_TRIPS_BY_HOUR = (22, 14, 9, 6, 6, 9, 22, 38, 46, 48, 51, 55, 60, 61, 66, 69, 68, 71, 69, 56, 44, 38, 37, 30)


def _month(rng: np.random.Generator, month: str, known: int, unknown: int) -> Iterator[Trips]:
    """The trips in chunks, roughly by pick-up as in a published file; the unknown block starts anew."""
    start = date.fromisoformat(f"{month}-01")
    days = ((start + timedelta(31)).replace(day=1) - start).days
    by_hour = np.cumsum(np.tile(np.array(_TRIPS_BY_HOUR, np.int64), days))
    midnight = (start - _EPOCH).days * _DAY
    for size, is_known in ((known, True), (unknown, False)):
        for first in range(0, size, _CHUNK_ROWS):
            row = np.arange(first, min(first + _CHUNK_ROWS, size), dtype=np.int64)
            hour = np.searchsorted(by_hour, row * by_hour[-1] // size, side="right").astype(np.int64)
            yield _trips(rng, midnight + hour * 3_600 + rng.integers(0, 3_600, len(row)), is_known)


def _trips(rng: np.random.Generator, pickup: Integers, is_known: bool) -> Trips:
    """Trips picked up at these seconds since 1970, by the names of the header."""

    def draw(table: Integers) -> Integers:
        return table[rng.integers(0, len(table), len(pickup))]

    vendor, rate = draw(_VENDOR), draw(_RATE)
    refund = (draw(_REFUND) == 1) & (vendor == 2) & is_known
    payment = np.where(refund, draw(_REFUND_PAYMENT), draw(_PAYMENT))

    miles = draw(_MILES)
    miles = np.where(np.isin(rate, (2, 3)), 1_500 + miles % 500, miles)
    miles = np.where(vendor == 1, miles // 10 * 10, miles)  # its meters show tenths
    seconds = 20 + miles * 360 // (draw(_SPEED) + miles // 10)
    odd = draw(_ODD_CLOCK)
    seconds = np.select([odd == 1, odd == 2], [1 + miles // 10, _DAY - 1 - seconds % 3_600], seconds)

    meter = 250 + (2 * miles + np.minimum(seconds, 7_200) * 28 // 60) // 50 * 50
    flat = [np.full_like(meter, 5_200), meter + 2_000, 2 * meter, 1_000 + meter // 500 * 500]
    fare = np.select([rate == 2, rate == 3, rate == 4, rate == 5], flat, meter)
    hour, weekday = pickup % _DAY // 3_600, (pickup // _DAY + _EPOCH.weekday()) % 7
    night, rush = (hour >= 20) | (hour < 6), (hour >= 16) & (hour < 20) & (weekday < 5)
    congestion = draw(_CONGESTION)
    extra = np.select([night, rush], [50, 100], 0) + np.where(vendor == 1, congestion, 0)
    if not is_known:
        # Totals that add up whichever vendor a reader takes the trip for.
        fare, extra, congestion = fare + miles % 50, np.full_like(fare, 275), np.zeros_like(fare)
    mta_tax = np.where(rate == 3, 0, 50)
    tolls = np.where(miles > 800, draw(_TOLLS), 0)
    due = fare + extra + mta_tax + tolls + 30 + np.where(vendor == 2, congestion, 0)
    tip = np.where(payment == 1, due * draw(_TIP_PERCENT) // 100, 0)
    sign = np.where(refund, -1, 1)

    pickup = pickup + draw(_OTHER_MONTH) * _DAY
    trips = {
        "VendorID": vendor,
        "tpep_pickup_datetime": pickup,
        "tpep_dropoff_datetime": pickup + seconds,
        "passenger_count": np.where(vendor == 1, draw(_PASSENGERS_1), draw(_PASSENGERS_2)),
        "trip_distance": miles,
        "RatecodeID": rate,
        "store_and_fwd_flag": np.where(vendor == 1, draw(_FLAG_1), 0),
        "PULocationID": np.where(rate == 2, 132, draw(_ZONE)),
        "DOLocationID": np.where(rate == 3, 1, draw(_ZONE)),
        "payment_type": payment,
        "fare_amount": sign * fare,
        "extra": sign * extra,
        "mta_tax": sign * mta_tax,
        "tip_amount": tip,
        "tolls_amount": sign * tolls,
        "improvement_surcharge": sign * 30,
        "total_amount": sign * due + tip,
        "congestion_surcharge": sign * congestion,
    }
    if not is_known:
        trips |= {name: np.full_like(pickup, _UNKNOWN) for name in _UNKNOWN_COLUMNS}
    return trips


def _lines(trips: Trips) -> list[bytes]:
    columns: list[list[str]] = []
    for name in HEADER.split(","):
        values = trips[name]
        if name.endswith("_datetime"):
            days, clocks = _texts(values // _DAY, _date), _texts(values % _DAY, _clock)
            columns.append([f"{day} {clock}" for day, clock in zip(days, clocks, strict=True)])
        else:
            columns.append(_texts(values, _SPELLING.get(name, _money)))
    return [",".join(row).encode() for row in zip(*columns, strict=True)]


def _texts(values: Integers, spell: Callable[[int], str]) -> list[str]:
    distinct, index = np.unique(values, return_inverse=True)
    texts = ["" if value == _UNKNOWN else spell(value) for value in distinct.tolist()]
    return [texts[at] for at in index.tolist()]


def _date(days: int) -> str:
    return str(_EPOCH + timedelta(days))


def _clock(seconds: int) -> str:
    return f"{seconds // 3_600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _miles(hundredths: int) -> str:
    """As the TLC spells miles: `.20`, `2.10`."""
    return f"{hundredths // 100 or ''}.{hundredths % 100:02}"


def _money(cents: int) -> str:
    """As the TLC spells dollars: `8`, `0.5`, `-2.5`, `11.75`."""
    return f"{cents / 100:.2f}".rstrip("0").rstrip(".")


_CODES = ("VendorID", "passenger_count", "RatecodeID", "PULocationID", "DOLocationID", "payment_type")
_SPELLING: dict[str, Callable[[int], str]] = {
    **dict.fromkeys(_CODES, str),
    "trip_distance": _miles,
    "store_and_fwd_flag": "NY".__getitem__,
}


def _broken(line: bytes, nth: int) -> bytes:
    """The line with one of five faults, each of which a reader can tell from this line alone."""
    fault = nth % 5
    if fault == 0:
        return line[: len(line) // 2]
    if fault == 1:
        return line + b",1,0.3"
    cells = line.split(b",")
    cells[4] = cells[4][:1] + (b'"', b"\xe9", b"\0")[fault - 2] + cells[4][1:]
    return b",".join(cells)
