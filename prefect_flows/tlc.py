"""What the TLC publishes: months, file names, and the one catalogue of columns. Pure; no input or output.

The catalogue is read off the header lines of the published yellow-taxi files (2009-01 onwards) and the TLC's
data dictionary for yellow taxi trip records.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated

from pydantic import Field

from prefect_flows.errors import UsageError

FIRST_MONTH = "2009-01"
# Where the TLC publishes a month (its page "TLC Trip Record Data"): Parquet for every year, since 2022.
SOURCE_TEMPLATE = "https://d37ci6vzurychx.cloudfront.net/trip-data/yellow_tripdata_{month}.parquet"
# Its lookup of zones, linked from the same page, and that file's columns.
ZONES_URL = "https://d37ci6vzurychx.cloudfront.net/misc/taxi_zone_lookup.csv"
ZONE_COLUMNS = ("locationid", "borough", "zone", "service_zone")
# "Trip data is published monthly, with two months delay" (the same page); it has been three at times.
MONTHS_UNTIL_PUBLISHED = 3

_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")
# A flow's parameter: Prefect's API refuses what does not match before a run is made.
Month = Annotated[str, Field(pattern=r"^(2009|20[1-9]\d)-(0[1-9]|1[0-2])$", examples=["2021-01"])]
_FILE_NAME = re.compile(r"yellow_tripdata_(\d{4}-(?:0[1-9]|1[0-2]))(?!\d)")


@dataclass(frozen=True)
class Column:
    """One column of the trip records.

    `name` is the TLC's current name in lower case; `aliases` are the names that earlier files gave it, stripped
    and in lower case; `required` says that every published file, of whatever year, has it.
    """

    name: str
    aliases: tuple[str, ...] = ()
    required: bool = False


COLUMNS: tuple[Column, ...] = (
    Column("vendorid", ("vendor_name", "vendor_id"), required=True),
    Column("tpep_pickup_datetime", ("trip_pickup_datetime", "pickup_datetime"), required=True),
    Column("tpep_dropoff_datetime", ("trip_dropoff_datetime", "dropoff_datetime"), required=True),
    Column("passenger_count", required=True),
    Column("trip_distance", required=True),
    Column("ratecodeid", ("rate_code",), required=True),
    Column("store_and_fwd_flag", ("store_and_forward",), required=True),
    Column("pulocationid"),
    Column("dolocationid"),
    Column("pickup_longitude", ("start_lon",)),
    Column("pickup_latitude", ("start_lat",)),
    Column("dropoff_longitude", ("end_lon",)),
    Column("dropoff_latitude", ("end_lat",)),
    Column("payment_type", required=True),
    Column("fare_amount", ("fare_amt",), required=True),
    Column("extra", ("surcharge",), required=True),
    Column("mta_tax", required=True),
    Column("tip_amount", ("tip_amt",), required=True),
    Column("tolls_amount", ("tolls_amt",), required=True),
    Column("improvement_surcharge"),
    Column("total_amount", ("total_amt",), required=True),
    Column("congestion_surcharge"),
    Column("airport_fee"),
    Column("cbd_congestion_fee"),
)

COLUMN_NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)

_BY_NAME = {name: column.name for column in COLUMNS for name in (column.name, *column.aliases)}


@dataclass(frozen=True)
class Binding:
    """Which field of a file is which column.

    `columns` maps a canonical name to the field's position; `unknown` maps a name that the catalogue does not have
    to its position; `width` is the number of names in the header.
    """

    columns: dict[str, int]
    unknown: dict[str, int]
    width: int
    missing: tuple[str, ...] = field(default=())


def bind(names: Iterable[str]) -> Binding:
    """Bind header names to the catalogue by name: stripped, in any case, through the aliases.

    A blank first name is the index column that pandas writes, and is kept as `unnamed_0`.

    Raises:
        ValueError: a name is blank or stands twice; the text names it.
    """
    columns: dict[str, int] = {}
    unknown: dict[str, int] = {}
    width = 0
    for position, written in enumerate(names):
        width += 1
        name = written.strip().lower()
        if not name:
            if position:
                raise ValueError(f"the name of column {position + 1} is blank")
            name = "unnamed_0"
        canonical = _BY_NAME.get(name)
        target, key = (columns, canonical) if canonical else (unknown, name)
        if key in target:
            raise ValueError(f"two columns are named {key!r}")
        target[key] = position
    missing = tuple(column.name for column in COLUMNS if column.required and column.name not in columns)
    return Binding(columns, unknown, width, missing)


def knows_any(names: Iterable[str]) -> bool:
    """Whether any of a header's names is one of the catalogue's."""
    return any(name.strip().lower() in _BY_NAME for name in names)


def parse_month(text: str) -> str:
    """Check a month and give it back as `YYYY-MM`.

    Raises:
        UsageError: it is not a month, or lies before the TLC's first (2009-01) or in the future.
    """
    month = text.strip()
    if not _MONTH.fullmatch(month):
        raise UsageError(f"{text!r} is not a month: write it as YYYY-MM, for example 2021-01.")
    if month < FIRST_MONTH:
        raise UsageError(f"There are no yellow-taxi files before {FIRST_MONTH}, so {month} cannot be loaded.")
    if month > date.today().isoformat()[:7]:
        raise UsageError(f"{month} is in the future: the TLC publishes a month about two months after its end.")
    return month


def months_between(first: str, last: str) -> list[str]:
    """All months from the first to the last, both included.

    Raises:
        UsageError: one is not a month, or the last lies before the first.
    """
    first, last = parse_month(first), parse_month(last)
    if last < first:
        raise UsageError(f"There is no month from {first} to {last}: give the earlier one first.")
    return [_month(number) for number in range(_number(first), _number(last) + 1)]


def due_months() -> list[str]:
    """The two newest months that the TLC may have published by now, the earlier one first."""
    this_month = _number(date.today().isoformat()[:7])
    return [_month(this_month - MONTHS_UNTIL_PUBLISHED), _month(this_month - MONTHS_UNTIL_PUBLISHED + 1)]


def may_be_unpublished(month: str) -> bool:
    """Whether a month is so recent that the TLC may not have published it yet."""
    return _number(month) + MONTHS_UNTIL_PUBLISHED >= _number(date.today().isoformat()[:7])


def _number(month: str) -> int:
    year, month_of_year = month.split("-")
    return int(year) * 12 + int(month_of_year) - 1


def _month(number: int) -> str:
    return f"{number // 12:04}-{number % 12 + 1:02}"


def month_of(source: str) -> str | None:
    """The month that a file's name tells (`…/yellow_tripdata_2021-01.csv.gz`), or None where it tells none."""
    name = re.split(r"[/\\]", source.partition("?")[0].rstrip("/"))[-1]
    found = _FILE_NAME.search(name)
    return found.group(1) if found else None
