"""Months, file names and the column catalogue: what is taken, what it becomes, what is refused."""

from datetime import date

import pytest

from prefect_flows import tlc
from prefect_flows.errors import UsageError
from prefect_flows.tlc import COLUMN_NAMES, COLUMNS, bind, may_be_unpublished, month_of, months_between, parse_month

HEADERS = {
    "2009": "vendor_name,Trip_Pickup_DateTime,Trip_Dropoff_DateTime,Passenger_Count,Trip_Distance,Start_Lon,Start_Lat,"
    "Rate_Code,store_and_forward,End_Lon,End_Lat,Payment_Type,Fare_Amt,surcharge,mta_tax,Tip_Amt,Tolls_Amt,Total_Amt",
    "2010-2013": "vendor_id,pickup_datetime,dropoff_datetime,passenger_count,trip_distance,pickup_longitude,"
    "pickup_latitude,rate_code,store_and_fwd_flag,dropoff_longitude,dropoff_latitude,payment_type,fare_amount,"
    "surcharge,mta_tax,tip_amount,tolls_amount,total_amount",
    "2014, a space after each comma": "vendor_id, pickup_datetime, dropoff_datetime, passenger_count, trip_distance, "
    "pickup_longitude, pickup_latitude, rate_code, store_and_fwd_flag, dropoff_longitude, dropoff_latitude, "
    "payment_type, fare_amount, surcharge, mta_tax, tip_amount, tolls_amount, total_amount",
    "2015-01": "VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,passenger_count,trip_distance,pickup_longitude,"
    "pickup_latitude,RateCodeID,store_and_fwd_flag,dropoff_longitude,dropoff_latitude,payment_type,fare_amount,extra,"
    "mta_tax,tip_amount,tolls_amount,improvement_surcharge,total_amount",
    "2017": "VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,passenger_count,trip_distance,RatecodeID,"
    "store_and_fwd_flag,PULocationID,DOLocationID,payment_type,fare_amount,extra,mta_tax,tip_amount,tolls_amount,"
    "improvement_surcharge,total_amount",
    "2021": "VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,passenger_count,trip_distance,RatecodeID,"
    "store_and_fwd_flag,PULocationID,DOLocationID,payment_type,fare_amount,extra,mta_tax,tip_amount,tolls_amount,"
    "improvement_surcharge,total_amount,congestion_surcharge",
    "2020-06, lower case": "vendorid,pickup_datetime,dropoff_datetime,passenger_count,trip_distance,ratecodeid,"
    "store_and_fwd_flag,pulocationid,dolocationid,payment_type,fare_amount,extra,mta_tax,tip_amount,tolls_amount,"
    "improvement_surcharge,total_amount,congestion_surcharge",
    "2025": "VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,passenger_count,trip_distance,RatecodeID,"
    "store_and_fwd_flag,PULocationID,DOLocationID,payment_type,fare_amount,extra,mta_tax,tip_amount,tolls_amount,"
    "improvement_surcharge,total_amount,congestion_surcharge,Airport_fee,cbd_congestion_fee",
}
NAMES_2017 = HEADERS["2017"].split(",")


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_the_header_of_every_era_is_bound_whole(header: str) -> None:
    names = header.split(",")
    binding = bind(names)
    assert sorted(binding.columns.values()) == list(range(len(names)))
    assert (binding.unknown, binding.missing, binding.width) == ({}, (), len(names))


@pytest.mark.parametrize(
    ("written", "bound"),
    [
        ("vendor_name", "vendorid"),
        ("vendor_id", "vendorid"),
        ("Trip_Pickup_DateTime", "tpep_pickup_datetime"),
        ("pickup_datetime", "tpep_pickup_datetime"),
        ("Trip_Dropoff_DateTime", "tpep_dropoff_datetime"),
        ("dropoff_datetime", "tpep_dropoff_datetime"),
        ("Rate_Code", "ratecodeid"),
        ("RateCodeID", "ratecodeid"),
        ("store_and_forward", "store_and_fwd_flag"),
        ("PULocationID", "pulocationid"),
        ("DOLocationID", "dolocationid"),
        ("Start_Lon", "pickup_longitude"),
        ("Start_Lat", "pickup_latitude"),
        ("End_Lon", "dropoff_longitude"),
        ("End_Lat", "dropoff_latitude"),
        ("Fare_Amt", "fare_amount"),
        ("surcharge", "extra"),
        ("Tip_Amt", "tip_amount"),
        ("Tolls_Amt", "tolls_amount"),
        ("Total_Amt", "total_amount"),
        ("Airport_fee", "airport_fee"),
        (" passenger_count\t", "passenger_count"),
    ],
)
def test_a_name_is_bound_through_case_spaces_and_aliases(written: str, bound: str) -> None:
    assert bind(["x", written]).columns == {bound: 1}


def test_names_are_bound_by_name_and_not_by_position() -> None:
    assert bind(reversed(NAMES_2017)).columns == {name.lower(): 16 - place for place, name in enumerate(NAMES_2017)}


def test_unknown_names_are_kept_with_their_position() -> None:
    binding = bind([*NAMES_2017, " Tip Jar "])
    assert binding.unknown == {"tip jar": 17}
    assert binding.missing == ()


def test_a_blank_first_name_is_an_index_column() -> None:
    assert bind(["", *NAMES_2017]).unknown == {"unnamed_0": 0}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["VendorID", "x", "vendorid"], "two columns are named 'vendorid'"),
        (["VendorID", "vendor_name"], "two columns are named 'vendorid'"),
        (["tip jar", "Tip Jar "], "two columns are named 'tip jar'"),
        (["VendorID", " ", "x"], "the name of column 2 is blank"),
        (["", ""], "the name of column 2 is blank"),
    ],
)
def test_names_that_are_not_clear_are_named(names: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        bind(names)


def test_what_every_published_year_has_is_required() -> None:
    everywhere = set.intersection(*({*bind(header.split(",")).columns} for header in HEADERS.values()))
    assert {column.name for column in COLUMNS if column.required} == everywhere


def test_missing_columns_are_listed_in_the_catalogues_order() -> None:
    assert bind(["total_amount", "VendorID", "x"]).missing == tuple(
        column.name for column in COLUMNS if column.required and column.name not in ("total_amount", "vendorid")
    )


def test_no_name_or_alias_stands_for_two_columns() -> None:
    names = [name for column in COLUMNS for name in (column.name, *column.aliases)]
    assert len(names) == len(set(names))
    assert names == [name.strip().lower() for name in names]
    assert len(COLUMN_NAMES) == 24


@pytest.fixture
def may_2021(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(date):
        @classmethod
        def today(cls) -> date:
            return date(2021, 5, 31)

    monkeypatch.setattr(tlc, "date", Clock)


@pytest.mark.usefixtures("may_2021")
@pytest.mark.parametrize("month", ["2009-01", "2020-12", "2021-05"])
def test_months_from_the_first_to_the_present_are_taken(month: str) -> None:
    assert parse_month(f" {month}\n") == month


@pytest.mark.usefixtures("may_2021")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2021-13", "write it as YYYY-MM"),
        ("2021-00", "write it as YYYY-MM"),
        ("2021-1", "write it as YYYY-MM"),
        ("202101", "write it as YYYY-MM"),
        ("21-01", "write it as YYYY-MM"),
        ("2021-01-01", "write it as YYYY-MM"),
        ("2021/01", "write it as YYYY-MM"),
        ("", "write it as YYYY-MM"),
        ("../2021-01", "write it as YYYY-MM"),
        ("2021-01'; DROP TABLE loads; --", "write it as YYYY-MM"),
        ("2008-12", "no yellow-taxi files before 2009-01"),
        ("2021-06", "in the future"),
        ("9999-12", "in the future"),
        ("\uff12\uff10\uff12\uff11-01", "month"),
    ],
)
def test_what_is_not_a_month_is_refused_with_what_to_write(text: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_month(text)
    assert words in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("source", "month"),
    [
        ("yellow_tripdata_2021-01.csv", "2021-01"),
        ("/data/yellow_tripdata_2009-12.csv.gz", "2009-12"),
        ("C:\\data\\yellow_tripdata_2009-12.csv", "2009-12"),
        ("https://example.org/a/yellow_tripdata_2016-07.parquet?sig=yellow_tripdata_2017-01", "2016-07"),
        ("https://example.org/yellow_tripdata_2016-07/", "2016-07"),
        ("head_of_yellow_tripdata_2021-01.head.csv.gz", "2021-01"),
        ("/yellow_tripdata_2021-01/january.csv", None),
        ("https://example.org/get?file=yellow_tripdata_2021-01.csv", None),
        ("yellow_tripdata_2021-13.csv", None),
        ("yellow_tripdata_2021-011.csv", None),
        ("green_tripdata_2021-01.csv", None),
        ("trips.csv", None),
        ("", None),
    ],
)
def test_a_files_name_tells_its_month(source: str, month: str | None) -> None:
    assert month_of(source) == month


@pytest.mark.parametrize(
    ("first", "last", "months"),
    [
        ("2020-11", "2021-02", ["2020-11", "2020-12", "2021-01", "2021-02"]),
        ("2021-01", "2021-01", ["2021-01"]),
    ],
)
def test_a_range_holds_its_first_and_its_last_month(first: str, last: str, months: list[str]) -> None:
    assert months_between(first, last) == months


def test_a_range_over_all_years_has_every_month_once() -> None:
    months = months_between("2009-01", "2020-12")
    assert len(set(months)) == len(months) == 12 * 12
    assert months == sorted(months)
    assert [parse_month(month) for month in months] == months


@pytest.mark.parametrize(("first", "last"), [("2021-02", "2021-01"), ("2021-1", "2021-02"), ("2021-01", "2021-13")])
def test_a_range_that_is_none_is_refused(first: str, last: str) -> None:
    with pytest.raises(UsageError):
        months_between(first, last)


def test_a_month_may_be_unpublished_for_three_months(monkeypatch: pytest.MonkeyPatch) -> None:
    class Today(date):
        @classmethod
        def today(cls) -> "Today":
            return cls(2021, 2, 15)

    monkeypatch.setattr(tlc, "date", Today)
    assert [may_be_unpublished(month) for month in ("2020-10", "2020-11", "2021-02")] == [False, True, True]
