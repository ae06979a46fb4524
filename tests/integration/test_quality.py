"""What tests find and what is kept of it: the stored rows, the history, the zone lookup, freshness, on both targets."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dbt.cli.main import dbtRunner

from prefect_flows.fetch import fetch
from prefect_flows.land import land
from prefect_flows.sample import write_sample
from prefect_flows.settings import Settings, in_environment
from prefect_flows.warehouses import open_warehouse
from prefect_flows.zones import read_zones
from tests.conftest import CRATEDB_AT_LENGTH, SHARED_DATA, own_warehouse
from tests.integration.conftest import PROJECT, records

MONTH = "2021-01"


class Warehouse:
    """A warehouse, and what is asked of it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.failures = f"{settings.cratedb_schema if settings.target == 'cratedb' else 'main'}_test_failures"

    def put(self, path: Path) -> None:
        with open_warehouse(self.settings) as warehouse:
            land(warehouse, fetch(str(path), path.parent), MONTH, max_reject_share=0.01, keep_loads=1)

    def dbt(self, *arguments: str) -> Any:
        where = ["--target", self.settings.target, "--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)]
        with in_environment(self.settings):
            outcome = dbtRunner().invoke([*arguments, *where])
        assert outcome.exception is None
        return outcome

    def rows(self, query: str) -> list[dict[str, Any]]:
        with open_warehouse(self.settings) as warehouse:
            return records(warehouse, query)

    def last_run(self) -> dict[str, dict[str, Any]]:
        """The newest run's rows of `test_results`, by test."""
        newest = "select max(ran_at) from {schema}.test_results"
        found = self.rows(f"select * from {{schema}}.test_results where ran_at = ({newest})")
        assert len({row["run_id"] for row in found}) == 1
        return {row["test"]: row for row in found}

    @property
    def tables(self) -> set[str]:
        """The tables of failing rows that are there."""
        query = f"select table_name from information_schema.tables where table_schema = '{self.failures}'"
        return {row["table_name"] for row in self.rows(query)}


@pytest.fixture(
    scope="module", params=[pytest.param("duckdb", marks=pytest.mark.xdist_group("quality")), CRATEDB_AT_LENGTH]
)
def warehouse(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    folder = tmp_path_factory.mktemp("quality")
    with own_warehouse(request, request.param) as settings:
        yield Warehouse(settings, folder)


HEAD_FIGURES = {
    "trip_data_fare_amount_is_not_negative": 199,
    "trip_data_pickup_is_in_the_files_month": 16,
    "trip_data_trip_distance_is_positive": 339,
    "trip_data_speed_is_at_most_100_mph": 19,
    "trip_data_passenger_count_is_at_most_six": 1,
    "trip_data_total_adds_up": 3,
}


def test_the_head_has_the_oddities_that_it_is_known_for(warehouse: Warehouse, head: Path) -> None:
    warehouse.put(head)
    outcome = warehouse.dbt("build", "--exclude-resource-type", "unit_test")

    assert outcome.success
    found = warehouse.last_run()
    assert {name: found[name]["failing_rows"] for name in HEAD_FIGURES} == HEAD_FIGURES
    assert {found[name]["tested_rows"] for name in HEAD_FIGURES} == {22_302}
    # It is a head: its days end with the second.
    red = {name: row["status"] for name, row in found.items() if row["status"] != "pass"}
    assert red == {"assert_every_day_has_trips": "warn"}

    # The rows themselves, tolerated ones too.
    for name, count in HEAD_FIGURES.items():
        assert found[name]["failures_table"] == f"{warehouse.failures}.{name}"
        assert warehouse.rows(f"select count(*) as n from {warehouse.failures}.{name}") == [{"n": count}]
    assert warehouse.tables == {name for name, row in found.items() if row["failing_rows"]}
    (fares,) = warehouse.rows(
        f"select max(fare_amount) as m from {warehouse.failures}.trip_data_fare_amount_is_not_negative"
    )
    assert fares["m"] < 0


def test_failing_rows_are_counted_whole_and_stored_up_to_a_thousand(warehouse: Warehouse) -> None:
    path = warehouse.folder / f"yellow_tripdata_{MONTH}.csv"
    write_sample(path, MONTH, rows=30_000, broken=0)
    header, *lines = path.read_text().splitlines()
    name, odd = "trip_data_trip_distance_is_positive", []
    for line in lines:
        cells = line.split(",")
        cells[4] = "0" if int(cells[7]) % 10 == 2 else cells[4]
        odd.append(",".join(cells))
    path.write_text("\n".join([header, *odd, ""]))
    zeros = "select count(*) as n from {schema}.trip_data where trip_distance <= 0"

    warehouse.put(path)
    assert warehouse.dbt("build", "--exclude-resource-type", "unit_test").success

    found = warehouse.last_run()[name]
    assert [{"n": found["failing_rows"]}] == warehouse.rows(zeros) and found["failing_rows"] > 1_000
    assert (found["status"], found["severity"], found["column_name"]) == ("warn", "warn", "trip_distance")
    assert (found["model"], found["months"]) == ("trip_data", MONTH)
    assert warehouse.rows(f"select count(*) as n from {warehouse.failures}.{name}") == [{"n": 1_000}]

    # A run with nothing new leaves what the last one that looked had found.
    assert warehouse.dbt("build", "--exclude-resource-type", "unit_test").success
    again = warehouse.last_run()[name]
    assert (again["run_id"] != found["run_id"], again["failing_rows"], again["months"]) == (True, 0, "")
    assert name in warehouse.tables

    # `dbt test` looks at all that is published, and a test that finds nothing drops its table.
    write_sample(path, MONTH, rows=30_000, broken=0, seed=3)
    warehouse.put(path)
    before = warehouse.rows("select count(*) as n from {schema}.test_results")
    outcome = warehouse.dbt("build", "--exclude-resource-type", "unit_test")
    assert {str(result.status) for result in outcome.result.results} == {"pass", "success"}
    clean = warehouse.last_run()
    assert warehouse.tables == {test for test, row in clean.items() if row["failing_rows"]}
    assert warehouse.rows("select count(*) as n from {schema}.test_results") == [{"n": before[0]["n"] + len(clean)}]


def test_tables_of_failing_rows_have_one_shard(warehouse: Warehouse) -> None:
    if warehouse.settings.target == "duckdb":
        return
    shards = warehouse.rows(
        "select table_name, number_of_shards as n, number_of_replicas as r from information_schema.tables"
        f" where table_schema = '{warehouse.failures}'"
    )
    assert shards and {(row["n"], row["r"]) for row in shards} == {(1, "0-1")}


ZONES = [("132", "Queens", "JFK Airport", "Airports"), ("264", "Unknown", "N/A", "N/A")]


def test_zones_are_judged_by_the_lookup_once_there_is_one(warehouse: Warehouse) -> None:
    tests = ["trip_data_pulocationid_is_in_the_zone_lookup", "trip_data_dolocationid_is_in_the_zone_lookup"]
    select = ["test", "--select", *tests]
    with open_warehouse(warehouse.settings) as opened:
        opened.replace_zones([("1", "EWR", "Newark Airport", "EWR"), *ZONES])
        opened.replace_zones(ZONES)
        found = records(opened, "select * from {raw}.taxi_zones order by locationid")
    assert [tuple(row.values()) for row in found] == ZONES

    assert warehouse.dbt(*select).success
    for name, column in zip(tests, ("pulocationid", "dolocationid"), strict=True):
        row = warehouse.last_run()[name]
        (strange,) = warehouse.rows(f"select count(*) as n from {{schema}}.trip_data where {column} not in (132, 264)")
        assert (row["status"], row["failing_rows"]) == ("warn", strange["n"])


def test_the_published_lookup_knows_every_zone_of_the_month(warehouse: Warehouse) -> None:
    path = SHARED_DATA / "taxi_zone_lookup.csv"
    if not path.exists():
        pytest.skip("the zone lookup is not beside the checkout (../shared/data)")
    with open_warehouse(warehouse.settings) as opened:
        opened.replace_zones(read_zones(path))
        assert records(opened, "select count(*) as n from {raw}.taxi_zones") == [{"n": 265}]
    outcome = warehouse.dbt("test", "--select", "trip_data_pulocationid_is_in_the_zone_lookup")
    assert [str(result.status) for result in outcome.result.results if result.node.resource_type == "test"] == ["pass"]


def test_a_source_that_was_just_loaded_is_fresh_and_one_of_last_year_is_not(warehouse: Warehouse) -> None:
    assert freshness(warehouse) == {"loads": "pass"}
    with open_warehouse(warehouse.settings) as opened:
        loads = opened.loads()
        for load in loads:
            if load.finished_at:
                opened.save(load.with_(finished_at=load.finished_at - timedelta(days=365)))
        try:
            assert freshness(warehouse) == {"loads": "error"}
        finally:
            for load in loads:
                opened.save(load)


def freshness(warehouse: Warehouse) -> dict[str, str]:
    results = warehouse.dbt("source", "freshness").result.results
    return {result.node.name: str(result.status) for result in results if result.node.resource_type == "source"}
