"""An analyst's `dbt build` and `dbt test` from the checkout's root, with no Prefect in sight."""

import json
from pathlib import Path

import pytest

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


def test_build_and_test_pass_after_a_load(
    settings: Settings, dbt: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
    sample = land_sample(settings, tmp_path)

    built = dbt("build")
    assert built.code == 0, built.out
    assert "ERROR=0 SKIP=0" in built.out
    # A test that is compiled before the month is published looks at nothing, and passes.
    results = json.loads((tmp_path / "target" / "run_results.json").read_text())["results"]
    looked = {result["unique_id"].split(".")[2]: result["compiled_code"] or "" for result in results}
    assert [name for name, sql in looked.items() if "file_month in ('')" in sql] == []
    with open_warehouse(settings) as warehouse:
        assert warehouse.frame("select count(*) as n from {schema}.trip_data")["n"].item() == sample.trips

    tested = dbt("test")
    assert tested.code == 0, tested.out
    assert "PASS=0" not in tested.out


def test_every_rule_is_told_also_where_a_setting_has_changed(
    settings: Settings, dbt: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dbt parses again only what a variable of the environment is read in, and loses what the YAML says of it."""
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path))
    for share in ("0.01", "0.1"):
        monkeypatch.setenv("TAXI_MAX_REJECT_SHARE", share)
        monkeypatch.setenv("TAXI_MAX_LOST_SHARE", share)
        assert dbt("parse").code == 0
    nodes = json.loads((tmp_path / "manifest.json").read_text())["nodes"].values()
    tests = [node for node in nodes if node["resource_type"] == "test"]
    assert len(tests) > 50
    assert [node["name"] for node in tests if not node["description"]] == []
