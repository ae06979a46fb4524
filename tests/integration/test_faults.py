"""Faults planted in files, on both targets: each turns the tests red that are there for it, and no others.

Every fault has a month of its own, four months from the next one's, so that no load is compared with another's. All are
landed and then judged in one go; a test's own SQL says of which months' rows it complains.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dbt.cli.main import dbtRunner

from prefect_flows.fetch import fetch
from prefect_flows.land import land
from prefect_flows.sample import HEADER, write_sample
from prefect_flows.settings import Settings
from prefect_flows.transform import run_dbt
from prefect_flows.warehouses import Warehouse, open_warehouse
from tests.conftest import CRATEDB_AT_LENGTH, own_warehouse
from tests.integration.conftest import records

# Under load, planting and judging them all takes longer than a test may.
pytestmark = pytest.mark.timeout(900)

ROWS = 3_000
Row = dict[str, str]
Plant = Callable[[list[Row]], list[Row]]

# --- what is done to the rows of a sample


def every(nth: int, change: Callable[[Row], Row]) -> Plant:
    """Change the last of every `nth` rows."""
    return lambda rows: [change(row) if n % nth == nth - 1 else row for n, row in enumerate(rows)]


def once(**values: str) -> Plant:
    return lambda rows: [row | values if n == 100 else row for n, row in enumerate(rows)]


def puts(**values: str) -> Callable[[Row], Row]:
    return lambda row: row | values


def money(factor: float) -> Callable[[Row], Row]:
    names = [*HEADER.split(",")[10:]]
    return lambda row: row | {name: f"{float(row[name]) * factor:.2f}" for name in names}


def swapped(one: str, other: str) -> Callable[[Row], Row]:
    return lambda row: row | {one: row[other], other: row[one]}


def in_2001(row: Row) -> Row:
    return row | {name: "2001" + row[name][4:] for name in row if name.endswith("_datetime")}


def other_payment(row: Row) -> Row:
    """Cash and cards change places."""
    return row | {"payment_type": {"1": "2", "2": "1"}.get(row["payment_type"], row["payment_type"])}


def shifted(row: Row) -> Row:
    """All values from passenger_count on stand one column further to the right."""
    names, values = list(row), list(row.values())
    return dict(zip(names, [*values[:3], "", *values[3:-1]], strict=True))


def by_coordinates(longitude: str, latitude: str) -> Callable[[Row], Row]:
    """A row as files had it before July 2016."""
    places = {"pickup_longitude": longitude, "pickup_latitude": latitude}
    places |= {name.replace("pickup", "dropoff"): value for name, value in places.items()}
    return lambda row: {name: value for name, value in row.items() if not name.endswith("LocationID")} | places


def add(name: str, amount: float) -> Callable[[Row], Row]:
    return lambda row: row | {name: f"{float(row[name]) + amount:.2f}"}


def without_unknown(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["VendorID"]]


@dataclass(frozen=True)
class Fault:
    """A fault, the tests that it turns red, and what a sound file was loaded for before: `this month`, `the month
    before`, or nothing."""

    name: str
    plant: Plant
    red: set[str]
    before: str | None = None


GATE = "stg_yellow_trips_"
FAULTS = [
    # The first three months are of before July 2016.
    Fault("places as files gave them until 2016", every(1, by_coordinates("-73.99", "40.75")), set()),
    Fault(
        "latitude and longitude swapped",
        every(1, by_coordinates("40.75", "-73.99")),
        {"trip_data_places_are_in_new_york"},
    ),
    Fault("one vendor that the dictionary lacks", once(VendorID="55"), {GATE + "vendorid_in_dictionary"}),
    Fault("rate codes", every(100, puts(RatecodeID="210")), {GATE + "ratecodeid_in_dictionary"}),
    Fault("one stray rate code is tolerated", once(RatecodeID="210"), set()),
    Fault("flags", every(100, puts(store_and_fwd_flag="X")), {GATE + "store_and_fwd_flag_is_y_or_n"}),
    Fault("ways of payment", every(100, puts(payment_type="9")), {GATE + "payment_type_in_dictionary"}),
    Fault("pick-up zones", every(100, puts(PULocationID="300")), {GATE + "pulocationid_is_a_zone"}),
    Fault("drop-off zones", every(100, puts(DOLocationID="0")), {GATE + "dolocationid_is_a_zone"}),
    Fault("passengers", every(100, puts(passenger_count="77")), {GATE + "passenger_count_in_range"}),
    Fault("eight passengers", every(100, puts(passenger_count="8")), {"trip_data_passenger_count_is_at_most_six"}),
    Fault("no drop-off time in one row", once(tpep_dropoff_datetime=""), {"assert_pickup_and_dropoff_are_given"}),
    Fault(
        "times swapped",
        every(1, swapped("tpep_pickup_datetime", "tpep_dropoff_datetime")),
        {"assert_dropoff_is_not_before_pickup"},
    ),
    Fault(
        "another year's file",
        every(1, in_2001),
        {"assert_pickup_is_in_the_files_month"},
    ),
    Fault(
        "some trips of another year",
        every(50, in_2001),
        {"trip_data_pickup_is_in_the_files_month"},
    ),
    Fault("file concatenated to itself", lambda rows: rows + rows, {"assert_rows_are_not_repeated"}),
    Fault(
        "trips sent twice",
        lambda rows: rows + rows[: len(rows) // 50],
        {"assert_trips_are_not_repeated"},
    ),
    Fault(
        "every tenth row dropped",
        lambda rows: [row for n, row in enumerate(rows) if n % 10],
        {"assert_no_rows_were_lost_since_the_load_before"},
        before="this month",
    ),
    Fault(
        "the block without passengers missing, in a file that replaces another",
        without_unknown,
        {"assert_no_rows_were_lost_since_the_load_before", "assert_columns_are_filled_as_before"},
        before="this month",
    ),
    Fault(
        "the block without passengers missing",
        without_unknown,
        {"assert_columns_are_filled_as_before"},
        before="the month before",
    ),
    Fault(
        "most rows dropped",
        lambda rows: rows[::3],
        {"assert_volume_is_like_the_months_before"},
        before="the month before",
    ),
    Fault("cut in the middle", lambda rows: rows[: len(rows) // 2], {"assert_every_day_has_trips"}),
    Fault(
        "values shifted by a column",
        every(1, shifted),
        {
            GATE + "ratecodeid_in_dictionary",
            GATE + "store_and_fwd_flag_is_y_or_n",
            GATE + "payment_type_in_dictionary",
        },
    ),
    Fault(
        "values that do not cast, above the share",
        every(50, puts(fare_amount="n/a")),
        {"assert_cast_rejects_stay_below_the_allowed_share"},
    ),
    Fault("values that do not cast, below the share", every(200, puts(fare_amount="n/a")), set()),
    Fault("amounts doubled", every(1, money(2)), {"trip_data_mta_tax_is_half_a_dollar"}),
    Fault("a third are refunds", every(3, money(-1)), {"trip_data_fare_amount_is_not_negative"}),
    Fault("wrong totals", every(10, add("total_amount", 1)), {"trip_data_total_adds_up"}),
    Fault("a fare missing", once(fare_amount=""), {"trip_data_fare_amount_is_given"}),
    Fault("no distances", every(1, puts(trip_distance="0")), {"trip_data_trip_distance_is_positive"}),
    Fault("impossible speeds", every(50, puts(trip_distance="3000")), {"trip_data_speed_is_at_most_100_mph"}),
    Fault("unknown zones", every(5, puts(PULocationID="264")), {"trip_data_zones_are_known"}),
    Fault("no zones", every(1, puts(DOLocationID="")), {"trip_data_zones_are_given"}),
    Fault("nothing", lambda rows: rows, set()),
    Fault("nothing, in a file that replaces another", lambda rows: rows, set(), before="this month"),
    Fault(
        "rate codes emptied",
        every(1, puts(RatecodeID="")),
        {"trip_data_codes_are_known_where_the_passengers_are"},
    ),
    Fault(
        "cash and cards mixed up",
        every(1, other_payment),
        {"trip_data_cash_trips_have_no_tip"},
    ),
]

MONTHS = {fault.name: f"{2015 + number // 3}-{3 + 4 * (number % 3):02}" for number, fault in enumerate(FAULTS)}


def month_before(month: str) -> str:
    return f"{month[:5]}{int(month[5:]) - 1:02}"


# --- one warehouse for all of them


@dataclass
class Planted:
    """What dbt said of all months: which tests are red over each, and what it recorded."""

    settings: Settings
    folder: Path
    red: dict[str, set[str]] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)

    def put(self, month: str, plant: Plant, seed: int) -> None:
        path = self.folder / str(seed) / f"yellow_tripdata_{month}.csv"
        write_sample(path, month, rows=ROWS, broken=0, seed=seed)
        header, *lines = path.read_text().splitlines()
        rows = plant([dict(zip(header.split(","), line.split(","), strict=True)) for line in lines])
        path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows), ""]))
        with open_warehouse(self.settings) as warehouse:
            land(warehouse, fetch(str(path), path), month, max_reject_share=0.01, keep_loads=1)

    def build(self) -> None:
        """As a flow does; every red test is asked of which months' rows it complains."""
        self.red, self.statuses = {}, {}
        run_dbt(self._invoke, self.settings)

    def _invoke(self, arguments: list[str]) -> Any:
        outcome = dbtRunner().invoke(arguments)
        assert outcome.exception is None
        with open_warehouse(self.settings) as warehouse:
            for result in outcome.result.results:
                assert result.status not in ("error", "runtime error"), f"{result.node.name}: {result.message}"
                if result.node.resource_type == "test" and result.status in ("warn", "fail"):
                    self.statuses[result.node.name] = str(result.status)
                    for month in self._months(warehouse, result.node.compiled_code):
                        self.red.setdefault(month, set()).add(result.node.name)
        return outcome

    def _months(self, warehouse: Warehouse, compiled: str) -> set[str]:
        compiled = compiled.replace("{", "{{").replace("}", "}}")  # no names of schemas in it
        if self.settings.target == "cratedb":
            compiled = compiled.replace(":", r"\:")  # SQLAlchemy would take it for a parameter
        rows = records(warehouse, compiled)
        return {(row.get("file_month") or row["load_id"])[:7] for row in rows if row.get("rows_beyond") != 0}


@pytest.fixture(
    scope="module", params=[pytest.param("duckdb", marks=pytest.mark.xdist_group("faults")), CRATEDB_AT_LENGTH]
)
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    folder = tmp_path_factory.mktemp("faults")
    with own_warehouse(request, request.param) as settings:
        planted = Planted(settings, folder)
        for fault in FAULTS:
            if fault.before:
                month = MONTHS[fault.name]
                planted.put(month if fault.before == "this month" else month_before(month), lambda rows: rows, 1)
        planted.build()
        assert planted.red == {}
        for fault in FAULTS:
            planted.put(MONTHS[fault.name], fault.plant, 2)
        planted.build()
        yield planted


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_turns_red_the_tests_that_are_there_for_it(planted: Planted, fault: Fault) -> None:
    assert planted.red.get(MONTHS[fault.name], set()) == fault.red


def test_no_other_month_turns_red(planted: Planted) -> None:
    assert set(planted.red) <= set(MONTHS.values())


def test_a_month_is_judged_by_the_tests_that_it_failed_and_by_no_others(planted: Planted) -> None:
    failed = {name for name, status in planted.statuses.items() if status == "fail"}
    expected = {MONTHS[fault.name]: fault.red & failed for fault in FAULTS if fault.red & failed}
    query = "select file_month, state, failed_tests from {schema}.publications where model = 'trip_data'"
    with open_warehouse(planted.settings) as warehouse:
        rows = records(warehouse, query)
    refused = {row["file_month"]: set(row["failed_tests"].split(", ")) for row in rows if row["state"] == "refused"}
    output = {month: names for month, names in expected.items() if any(name.startswith("trip_data") for name in names)}
    assert len(output) == 2
    assert refused == {month: names for month, names in expected.items() if month not in output}
    suspect = {row["file_month"]: set(row["failed_tests"].split(", ")) for row in rows if row["state"] == "suspect"}
    assert suspect == output
    states = {row["state"] for row in rows if row["file_month"] in MONTHS.values()}
    assert states == {"published", "refused", "suspect"}
