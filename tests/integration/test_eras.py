"""A month of each era of the published files: `trip_data` holds what the file says, row by row and field by field.

What a header's names and a field's text mean is written down here a second time, without the project's catalogue,
its reader and its SQL.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_flows.fetch import fetch
from prefect_flows.land import land
from prefect_flows.settings import Settings
from prefect_flows.tlc import bind
from prefect_flows.warehouses import open_warehouse
from tests.conftest import CRATEDB_AT_LENGTH, SHARED_DATA, own_warehouse
from tests.integration.conftest import build, records

# The first KiB of a published file each, so that the last line is cut.
MONTHS = ["2009-01", "2010-01", "2015-01", "2016-07", "2017-01", "2019-01", "2020-01"]

# The columns of trip_data, and what the published headers call them.
NAMES = {
    "vendorid": "vendor_name vendor_id VendorID",
    "tpep_pickup_datetime": "Trip_Pickup_DateTime pickup_datetime tpep_pickup_datetime",
    "tpep_dropoff_datetime": "Trip_Dropoff_DateTime dropoff_datetime tpep_dropoff_datetime",
    "passenger_count": "Passenger_Count passenger_count",
    "trip_distance": "Trip_Distance trip_distance",
    "ratecodeid": "Rate_Code rate_code RateCodeID RatecodeID",
    "store_and_fwd_flag": "store_and_forward store_and_fwd_flag",
    "pulocationid": "PULocationID",
    "dolocationid": "DOLocationID",
    "pickup_longitude": "Start_Lon pickup_longitude",
    "pickup_latitude": "Start_Lat pickup_latitude",
    "dropoff_longitude": "End_Lon dropoff_longitude",
    "dropoff_latitude": "End_Lat dropoff_latitude",
    "payment_type": "Payment_Type payment_type",
    "fare_amount": "Fare_Amt fare_amount",
    "extra": "surcharge extra",
    "mta_tax": "mta_tax",
    "tip_amount": "Tip_Amt tip_amount",
    "tolls_amount": "Tolls_Amt tolls_amount",
    "improvement_surcharge": "improvement_surcharge",
    "total_amount": "Total_Amt total_amount",
    "congestion_surcharge": "congestion_surcharge",
    "airport_fee": "airport_fee Airport_fee",
    "cbd_congestion_fee": "cbd_congestion_fee",
}
COLUMN_OF = {name: column for column, names in NAMES.items() for name in names.split()}

WORDS = {
    "vendorid": {"CMT": 1, "VTS": 2, "DDS": 3},
    "store_and_fwd_flag": {"Y": "Y", "N": "N", "1": "Y", "0": "N"},
    "payment_type": {"CREDIT": 1, "CRE": 1, "CASH": 2, "CAS": 2},
}
INTEGERS = {"vendorid", "passenger_count", "ratecodeid", "pulocationid", "dolocationid", "payment_type"}
TIMES = {"tpep_pickup_datetime", "tpep_dropoff_datetime"}
PLACES = {"pickup_longitude", "pickup_latitude", "dropoff_longitude", "dropoff_latitude"}
OF_THE_LOAD = {"file_month", "load_id", "source_row", "build_id"}


def head_of(month: str) -> Path:
    path = SHARED_DATA / "month_heads" / f"yellow_tripdata_{month}.csv"
    if not path.exists():
        pytest.skip("the heads of published months are not beside the checkout (../shared/data)")
    return path


def header_of(month: str) -> list[str]:
    return head_of(month).read_bytes().split(b"\n")[0].decode().rstrip("\r").split(",")


def lines_of(month: str) -> dict[int, str]:
    """The lines behind the header by their numbers, blank ones left out."""
    lines = head_of(month).read_bytes().split(b"\n")
    return {number: line.decode().rstrip("\r") for number, line in enumerate(lines, 1) if number > 1 and line.strip()}


def meaning(column: str, text: str) -> Any:
    if not text:
        return None
    if (word := text.upper()) in WORDS.get(column, {}):
        return WORDS[column][word]
    if column in INTEGERS:
        return int(text)
    if column in TIMES:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")
    return None if column in PLACES and float(text) == 0 else float(text)


def trips_of(month: str) -> dict[int, dict[str, Any]]:
    """The trips of a month by their lines, as they have to be in trip_data: without the cut line and empty taxis."""
    names, lines = header_of(month), lines_of(month)
    del lines[max(lines)]
    trips = {}
    for number, line in lines.items():
        fields = line.split(",")
        assert not any(fields[len(names) :])
        values = {COLUMN_OF[name]: meaning(COLUMN_OF[name], text) for name, text in zip(names, fields, strict=False)}
        if values["passenger_count"] != 0:
            trips[number] = dict.fromkeys(NAMES) | values
    return trips


@pytest.fixture(
    scope="module", params=[pytest.param("duckdb", marks=pytest.mark.xdist_group("eras")), CRATEDB_AT_LENGTH]
)
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    with own_warehouse(request, request.param) as settings:
        yield settings


@pytest.fixture(scope="module")
def tables(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """trip_data and trip_rejects after one build over the months of all eras."""
    folder = tmp_path_factory.mktemp("files")
    with open_warehouse(settings) as warehouse:
        for month in MONTHS:
            land(warehouse, fetch(str(head_of(month)), folder), month, max_reject_share=0.5, keep_loads=1)
    assert build(settings) == ""
    with open_warehouse(settings) as warehouse:
        return {
            table: records(warehouse, f"select * from {{schema}}.{table}") for table in ("trip_data", "trip_rejects")
        }


@pytest.mark.parametrize("month", MONTHS)
def test_every_field_of_the_file_is_in_trip_data(tables: dict[str, list[dict[str, Any]]], month: str) -> None:
    trips, expected = [trip for trip in tables["trip_data"] if trip["file_month"] == month], trips_of(month)
    assert all(set(trip) == set(NAMES) | OF_THE_LOAD for trip in trips)
    assert {trip["source_row"]: {name: trip[name] for name in NAMES} for trip in trips} == expected
    assert len(trips) == len(expected) >= 4


@pytest.mark.parametrize("month", MONTHS)
def test_only_the_cut_last_line_is_rejected(tables: dict[str, list[dict[str, Any]]], month: str) -> None:
    number, text = max(lines_of(month).items())
    names, found = len(header_of(month)), len(text.split(","))
    (reject,) = (reject for reject in tables["trip_rejects"] if reject["file_month"] == month)
    assert (reject["kind"], reject["source_row"], reject["line_text"]) == ("broken row", number, text)
    assert reject["reason"] == f"expected {names} fields, found {found}"


def spaced(header: list[str]) -> list[str]:
    return [header[0], *(f" {name}" for name in header[1:])]


# Eras without a head here, derived from their neighbours'.
DERIVED = {
    "2014-01": lambda: spaced(header_of("2010-01")),
    "2015-07": lambda: [name.replace("RateCodeID", "RatecodeID") for name in header_of("2015-01")],
    "2020-06": lambda: [name.lower().removeprefix("tpep_") for name in header_of("2020-01")],
    "2021-01 as Parquet": lambda: [*header_of("2020-01"), "airport_fee"],
    "2023-01 as Parquet": lambda: [*header_of("2020-01"), "Airport_fee"],
    "2025-01 as Parquet": lambda: [*header_of("2020-01"), "Airport_fee", "cbd_congestion_fee"],
}


@pytest.mark.parametrize("era", [*MONTHS, *DERIVED])
def test_header_binds_without_an_unknown_column(era: str) -> None:
    header = DERIVED[era]() if era in DERIVED else header_of(era)
    columns = COLUMN_OF | {name.lower(): column for name, column in COLUMN_OF.items()}
    binding = bind(header)
    assert binding.columns == {columns[name.strip()]: position for position, name in enumerate(header)}
    assert (binding.unknown, binding.missing, binding.width) == ({}, (), len(header))
