"""The columns of a published month: nulls, distinct values, minimum, median, maximum, a histogram; all of them exact.

Each column is grouped by its values once, those with few values together, and everything is told from the groups: on
CrateDB that takes a tenth of a second a column for a full-size month, where its own `percentile` takes minutes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from prefect_flows.report.facts import Before, Bin, Column, Day, Hour
from prefect_flows.warehouses import Warehouse, now

# A histogram has at least so many bars where the values allow it, and up to two and a half times as many.
BINS = 15
# With so few values each has a bar of its own.
VALUES = 12
# Share of the rows at either end that shares a bar, so that one typing error does not flatten all others.
TAIL = 0.005

_TIMES = ("tpep_pickup_datetime", "tpep_dropoff_datetime")
# Columns of few values, read together; the others one by one.
_TOGETHER = (
    ("vendorid", "passenger_count", "ratecodeid", "store_and_fwd_flag", "payment_type"),
    ("extra", "mta_tax", "improvement_surcharge", "congestion_surcharge", "airport_fee", "cbd_congestion_fee"),
)
_ALONE = ("trip_distance", "pulocationid", "dolocationid", "fare_amount", "tip_amount", "tolls_amount", "total_amount")
_PLACES = ("pickup_longitude", "pickup_latitude", "dropoff_longitude", "dropoff_latitude")

TABLE = "column_profiles"
TABLE_COLUMNS = {
    "load_id": "text",
    "build_id": "text",
    "column_name": "text",
    "file_month": "text",
    "profiled_at": "timestamp",
    "row_count": "bigint",
    "null_rows": "bigint",
    "distinct_values": "bigint",
    "min_value": "text",
    "median_value": "text",
    "max_value": "text",
}


@dataclass(frozen=True)
class Profile:
    """The columns of a month, and its trips by day and hour."""

    columns: list[Column]
    days: list[Day]
    hours: list[Hour]


def profile(warehouse: Warehouse, month: str, names: Sequence[str]) -> Profile:
    """Profile a month's rows of `trip_data`.

    Args:
        warehouse: connected.
        month: `YYYY-MM`.
        names: the columns to look at, in this order.

    Raises:
        WarehouseError, Unavailable: the table is missing, or the warehouse does not answer.
    """
    groups: dict[str, pd.DataFrame] = {}
    for columns in (*_TOGETHER, *((name,) for name in _ALONE), *((name,) for name in _PLACES)):
        there = [name for name in columns if name in names]
        if there:
            groups |= _marginals(_grouped(warehouse, month, there), there)
    for name in _TIMES:
        groups[name] = _by_hour(warehouse, month, name)
    found = [_column(name, groups[name]) for name in names if name in groups]
    pickups = groups[_TIMES[0]]
    return Profile(found, _days(pickups, month), _hours(pickups))


def _grouped(warehouse: Warehouse, month: str, columns: Sequence[str]) -> pd.DataFrame:
    values = [f"round({name} * 1000) / 1000" if name in _PLACES else name for name in columns]
    spelled = ", ".join(f"{value} as {name}" for value, name in zip(values, columns, strict=True))
    return warehouse.frame(
        f"select {spelled}, count(*) as n from {{schema}}.trip_data where file_month = :month"
        f" group by {', '.join(values)}",
        {"month": month},
    )


def _marginals(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, pd.DataFrame]:
    return {
        name: frame.groupby(name, dropna=False)["n"].sum().reset_index().rename(columns={name: "value"})
        for name in columns
    }


def _by_hour(warehouse: Warehouse, month: str, name: str) -> pd.DataFrame:
    """A time by the hour: `value`, `n`, `revenue`, and the hour's earliest and latest time."""
    frame = warehouse.frame(
        f"select date_trunc('hour', {name}) as value, count(*) as n, sum(total_amount) as revenue,"
        f" min({name}) as earliest, max({name}) as latest"
        f" from {{schema}}.trip_data where file_month = :month group by date_trunc('hour', {name})",
        {"month": month},
    )
    for column in ("value", "earliest", "latest"):
        frame[column] = times(frame[column])
    return frame.sort_values("value", ignore_index=True)


def times(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Times without a zone; CrateDB gives milliseconds since 1970."""
    if pd.api.types.is_datetime64_any_dtype(values):
        return values.dt.tz_localize(None) if values.dt.tz is not None else values
    return pd.to_datetime(pd.to_numeric(values), unit="ms")


def _column(name: str, groups: pd.DataFrame) -> Column:
    rows = int(groups["n"].sum())
    given = groups[groups["value"].notna()]
    nulls = rows - int(given["n"].sum())
    kind = "time" if name in _TIMES else "text" if name == "store_and_fwd_flag" else "number"
    if given.empty:
        return Column(name, kind, rows, nulls, 0, None, None, None, [])
    given = given.sort_values("value", ignore_index=True)
    values, counts = given["value"], given["n"].to_numpy(np.int64)
    low, high = (
        (given["earliest"].min(), given["latest"].max()) if kind == "time" else (values.iloc[0], values.iloc[-1])
    )
    median = values.iloc[int(np.searchsorted(np.cumsum(counts), math.ceil(counts.sum() / 2)))]
    return Column(
        name=name,
        type=kind,
        rows=rows,
        nulls=nulls,
        distinct=len(given),
        minimum=_text(low),
        median=_text(median),
        maximum=_text(high),
        histogram=histogram(values.tolist(), counts.tolist()),
    )


def _text(value: Any) -> str:
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return f"{value:.10g}" if isinstance(value, (int, float, np.number)) else str(value)


def histogram(values: Sequence[Any], counts: Sequence[int]) -> list[Bin]:
    """Bars of values in ascending order and how often each occurs.

    With at most `VALUES` of them each has its own; otherwise numbers and times fall into equal bins with round
    bounds, and what lies further out than all but `TAIL` of the rows into one bar at each end.
    """
    if len(values) <= VALUES or isinstance(values[0], str):
        return [Bin(_text(value), int(n)) for value, n in zip(values, counts, strict=True)][: 2 * BINS]
    is_time = isinstance(values[0], pd.Timestamp)
    numbers = np.array([value.timestamp() if is_time else float(value) for value in values])
    weights = np.array(counts, np.int64)
    reached = np.cumsum(weights)
    low = numbers[int(np.searchsorted(reached, reached[-1] * TAIL))]
    high = numbers[int(np.searchsorted(reached, reached[-1] * (1 - TAIL)))]
    step = _round_step((high - low) / BINS, is_time)
    start = math.floor(low / step)
    number = min(math.floor(high / step) - start + 1, 3 * BINS)
    at = np.clip(np.floor(numbers / step).astype(np.int64) - start, -1, number)
    rows = np.bincount(at + 1, weights=weights, minlength=number + 2).astype(np.int64).tolist()

    def bound(index: int) -> str:
        edge = (start + index) * step
        if is_time:
            return f"{datetime.fromtimestamp(edge, UTC):{'%Y-%m-%d' if step >= 86_400 else '%Y-%m-%d %H:%M'}}"
        return f"{edge:.10g}"

    bars = [Bin(f"{bound(index)} to {bound(index + 1)}", rows[index + 1]) for index in range(number)]
    below = [Bin(f"below {bound(0)}", rows[0])] if rows[0] else []
    above = [Bin(f"{bound(number)} and above", rows[-1])] if rows[-1] else []
    return below + bars + above


def _round_step(step: float, is_time: bool) -> float:
    """The largest round number (of seconds, for times) that is not above this one."""
    if step <= 0:
        return 1.0
    if is_time:
        return float(max((s for s in (60, 300, 900, 3_600, 21_600, 86_400, 604_800) if s <= step), default=1))
    power = 10.0 ** math.floor(math.log10(step))
    return max(m * power for m in (1, 2, 2.5, 5) if m * power <= step * 1.001)


def _days(pickups: pd.DataFrame, month: str) -> list[Day]:
    """The days of the month, also those without a trip, and the other days that its file has trips of."""
    days = pickups.groupby(pickups["value"].dt.date)[["n", "revenue"]].sum()
    every = set(days.index) | set(_days_of(month))
    return [
        Day(
            day,
            int(days["n"].get(day, 0)),
            round(float(days["revenue"].get(day, 0)), 2),
            f"{day:%Y-%m}" == month,
        )
        for day in sorted(every)
    ]


def _days_of(month: str) -> Iterable[date]:
    day = date.fromisoformat(f"{month}-01")
    while f"{day:%Y-%m}" == month:
        yield day
        day += timedelta(1)


def _hours(pickups: pd.DataFrame) -> list[Hour]:
    hours = pickups.groupby(pickups["value"].dt.hour)[["n", "revenue"]].sum()
    return [
        Hour(hour, int(hours["n"].get(hour, 0)), round(float(hours["revenue"].get(hour, 0)), 2)) for hour in range(24)
    ]


def remember(warehouse: Warehouse, month: str, load_id: str, build_id: str, columns: Sequence[Column]) -> None:
    """Add the profile of a published load to `column_profiles`.

    Raises:
        WarehouseError, Unavailable: the warehouse did not keep it.
    """
    at = now()
    warehouse.append(
        TABLE,
        TABLE_COLUMNS,
        [
            (
                load_id, build_id, column.name, month, at, column.rows, column.nulls, column.distinct,
                column.minimum, column.median, column.maximum,
            )
            for column in columns
        ],
    )  # fmt: skip


def remembered(warehouse: Warehouse) -> pd.DataFrame:
    """The rows of `column_profiles`, newest first; the table must be there.

    Raises:
        WarehouseError, Unavailable: the warehouse does not answer.
    """
    frame = warehouse.frame(
        "select load_id, build_id, column_name, file_month, profiled_at, row_count, null_rows from {schema}." + TABLE
    )
    return frame.sort_values(["profiled_at", "column_name"], ascending=False)


def with_before(known: pd.DataFrame, month: str, load_id: str, columns: Sequence[Column]) -> list[Column]:
    """The columns with what they were in the load that this one replaced, or else in the month before it.

    Args:
        known: what `remembered` gives.
    """
    others = known[(known["file_month"] <= month) & (known["load_id"] != load_id)]
    if others.empty:
        return list(columns)
    others = others.sort_values("file_month", ascending=False, kind="stable")
    newest = others[others["load_id"] == others["load_id"].iloc[0]].drop_duplicates("column_name")
    before = {
        str(row.column_name): Before(str(row.load_id), int(row.row_count), int(row.null_rows))
        for row in newest.itertuples()
    }
    return [replace(column, before=before.get(column.name)) for column in columns]
