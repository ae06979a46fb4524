"""An analyst's `dbt build` and `dbt test` from the checkout's root, with no Prefect in sight."""

from pathlib import Path

from prefect_flows.fetch import fetch
from prefect_flows.land import land
from prefect_flows.sample import SampleFacts, write_sample
from prefect_flows.settings import Settings
from prefect_flows.warehouses import open_warehouse
from tests.conftest import TARGETS_AT_LENGTH
from tests.integration.conftest import Run

pytestmark = TARGETS_AT_LENGTH


def land_sample(settings: Settings, folder: Path) -> SampleFacts:
    sample = write_sample(folder / "yellow_tripdata_2021-02.csv", "2021-02", rows=3_000)
    with open_warehouse(settings) as warehouse:
        land(warehouse, fetch(str(sample.path), folder), "2021-02", max_reject_share=0.01, keep_loads=1)
    return sample


def test_before_any_load_it_says_to_load_a_month(settings: Settings, dbt: Run) -> None:
    answer = dbt("build")
    assert answer.code != 0
    assert "No month is loaded yet" in answer.out
    assert f"taxi-elt run --target {settings.target} --source" in answer.out


def test_build_and_test_pass_after_a_load(settings: Settings, dbt: Run, tmp_path: Path) -> None:
    sample = land_sample(settings, tmp_path)

    built = dbt("build")
    assert built.code == 0, built.out
    assert "ERROR=0 SKIP=0" in built.out
    with open_warehouse(settings) as warehouse:
        assert warehouse.frame("select count(*) as n from {schema}.trip_data")["n"].item() == sample.trips

    tested = dbt("test")
    assert tested.code == 0, tested.out
    assert "PASS=0" not in tested.out
