"""Histograms, and the profile of columns against DuckDB's own answers."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_flows.report.facts import Bin
from prefect_flows.report.profile import (
    TABLE,
    Profile,
    histogram,
    profile,
    remember,
    remembered,
    with_before,
)
from prefect_flows.settings import load_settings
from prefect_flows.warehouses.duck import DuckWarehouse


def test_few_values_have_a_bar_each() -> None:
    assert histogram([1, 2, 99], [5, 6, 1]) == [Bin("1", 5), Bin("2", 6), Bin("99", 1)]
    assert histogram(["N", "Y"], [5, 6]) == [Bin("N", 5), Bin("Y", 6)]


def test_many_values_fall_into_bins_with_round_bounds_and_tails_share_a_bar() -> None:
    bars = histogram([-900.0, *(n / 10 for n in range(1000)), 90_000.0], [1] * 1002)
    assert bars[0].label == "below 0" and bars[0].rows == 1
    assert bars[-1].label == "100 and above" and bars[-1].rows == 1
    assert bars[1] == Bin("0 to 5", 50)
    assert all(bar.rows == 50 for bar in bars[1:-1])


def test_times_fall_into_days() -> None:
    hours = [pd.Timestamp("2021-01-01") + pd.Timedelta(hours=n) for n in range(31 * 24)]
    bars = histogram(hours, [10] * len(hours))
    assert Bin("2021-01-02 to 2021-01-03", 240) in bars
    assert len(bars) == 31


@settings(deadline=None)
@given(st.dictionaries(st.integers(-(10**9), 10**9).map(lambda n: n / 100), st.integers(1, 1000), min_size=1))
def test_a_histogram_counts_every_row_once(counts: dict[float, int]) -> None:
    values = sorted(counts)
    bars = histogram(values, [counts[value] for value in values])
    assert sum(bar.rows for bar in bars) == sum(counts.values())
    assert len(bars) <= 50
    assert len({bar.label for bar in bars}) == len(bars)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckWarehouse]:
    """Two months of `trip_data`, some of it null."""
    with DuckWarehouse(load_settings(target="duckdb", duckdb_path=tmp_path / "warehouse.duckdb")) as connected:
        connected.frame(
            "create table trip_data as select"
            " case when i % 5 > 0 then i % 3 end as vendorid, i % 97 / 2.0 as fare_amount, 'Y' as store_and_fwd_flag,"
            " null::double as airport_fee, -73.9 - (i % 3) / 10000.0 as pickup_longitude, 2.5 as total_amount,"
            " timestamp '2021-01-31 22:00:00' + i * interval 1 minute as tpep_pickup_datetime,"
            " timestamp '2021-01-31 22:10:30' + i * interval 1 minute as tpep_dropoff_datetime,"
            " case when i < 500 then '2021-01' else '2021-02' end as file_month from range(1000) as r (i)"
        )
        yield connected


NAMES = [
    "vendorid", "tpep_pickup_datetime", "tpep_dropoff_datetime", "store_and_fwd_flag", "pickup_longitude",
    "fare_amount", "airport_fee",
]  # fmt: skip


@pytest.fixture
def found(warehouse: DuckWarehouse) -> Profile:
    return profile(warehouse, "2021-01", NAMES)


def test_profile_is_what_the_engine_says(warehouse: DuckWarehouse, found: Profile) -> None:
    assert [column.name for column in found.columns] == NAMES
    for column in found.columns:
        row = warehouse.frame(
            f"select count(*) as n, count({column.name}) as given, count(distinct {column.name}) as d,"
            f" min({column.name}) as low, max({column.name}) as high, quantile_disc({column.name}, 0.5) as middle"
            " from trip_data where file_month = '2021-01'"
        ).iloc[0]
        assert (column.rows, column.nulls) == (row["n"], row["n"] - row["given"]) == (500, column.nulls)
        assert sum(bar.rows for bar in column.histogram) == row["given"]
        if column.name in ("vendorid", "fare_amount"):
            assert (column.distinct, float(column.minimum or "nan"), float(column.maximum or "nan")) == (
                row["d"], row["low"], row["high"]
            )  # fmt: skip
            assert float(column.median or "nan") == row["middle"]


def test_times_have_their_exact_ends_and_count_hours(found: Profile) -> None:
    pickup = found.columns[1]
    assert (pickup.minimum, pickup.maximum) == ("2021-01-31 22:00:00", "2021-02-01 06:19:00")
    assert (pickup.distinct, pickup.median) == (9, "2021-02-01 02:00:00")


def test_places_count_in_thousandths_of_a_degree(found: Profile) -> None:
    assert (found.columns[4].distinct, found.columns[4].minimum) == (1, "-73.9")


def test_column_without_a_value_has_none(found: Profile) -> None:
    fee = found.columns[-1]
    assert (fee.nulls, fee.distinct, fee.minimum, fee.histogram, fee.null_share) == (500, 0, None, [], 1)


def test_days_have_the_whole_month_and_mark_the_others(found: Profile) -> None:
    assert len(found.days) == 32
    assert [(day.day, day.trips, day.revenue, day.in_month) for day in found.days[-2:]] == [
        (date(2021, 1, 31), 120, 300.0, True),
        (date(2021, 2, 1), 380, 950.0, False),
    ]
    assert found.days[0].trips == 0
    assert [(hour.hour, hour.trips) for hour in found.hours if hour.hour in (5, 6, 22)] == [(5, 60), (6, 20), (22, 60)]


def test_profiles_are_only_added_and_the_load_before_is_found(warehouse: DuckWarehouse, found: Profile) -> None:
    remember(warehouse, "2020-11", "old", "build-0", found.columns[:1])
    remember(warehouse, "2020-12", "before", "build-1", found.columns)
    remember(warehouse, "2021-01", "now", "build-2", found.columns)
    remember(warehouse, "2021-02", "later", "build-3", found.columns)
    known = remembered(warehouse)
    assert len(known) == 3 * len(NAMES) + 1

    def compared_with(month: str, load_id: str) -> set[str | None]:
        columns = with_before(known, month, load_id, found.columns)
        return {column.before.load_id if column.before else None for column in columns}

    assert compared_with("2021-01", "now") == {"before"}
    assert compared_with("2021-01", "corrected") == {"now"}
    assert compared_with("2020-12", "before") == {"old", None}
    assert compared_with("2020-10", "first") == {None}
    (vendor, *_) = with_before(known, "2021-01", "now", found.columns)
    assert vendor.before and vendor.before.null_share == 0.2
    stored = warehouse.frame(f"select * from {TABLE} where load_id = 'now' and column_name = 'fare_amount'").iloc[0]
    assert (stored["row_count"], stored["null_rows"], stored["min_value"], stored["max_value"]) == (500, 0, "0", "48")
