"""The main job on both targets: a month's file becomes trip_data, and every figure agrees with a second count."""

from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from prefect_flows.errors import FileRefused, TaxiError, TransformError
from prefect_flows.flows import yellow_taxi
from prefect_flows.sample import SampleFacts, write_sample
from prefect_flows.settings import Settings
from prefect_flows.warehouses import open_warehouse
from tests.conftest import TARGETS

pytestmark = [TARGETS, pytest.mark.usefixtures("flow_settings")]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleFacts:
    return write_sample(tmp_path_factory.mktemp("sample") / "yellow_tripdata_2021-02.csv.gz", "2021-02", rows=20_000)


def one_row(settings: Settings, query: str) -> dict[str, float]:
    with open_warehouse(settings) as warehouse:
        return warehouse.frame(query).iloc[0].to_dict()


def assert_same_as_pandas(settings: Settings, source: Path) -> None:
    """Every row and every column of the file, against pandas' own reading and filtering of it."""
    with open_warehouse(settings) as warehouse:
        broken = set(warehouse.frame("select line_no from {raw}.rejected_rows")["line_no"])
        actual = warehouse.frame("select * from {schema}.trip_data order by source_row")
    published = pd.read_csv(
        source,
        dtype={"store_and_fwd_flag": "object"},
        skiprows=lambda index: index + 1 in broken,
        encoding_errors="replace",
    )
    expected = published[published["passenger_count"] != 0].reset_index(drop=True)
    assert len(actual) == len(expected)
    for column in expected.columns:
        got, want = actual[column.lower()], expected[column]
        if column.endswith("_datetime"):
            moments = pd.to_datetime(got, unit="ms" if pd.api.types.is_numeric_dtype(got) else None)
            assert (moments.astype("datetime64[s]") == pd.to_datetime(want).astype("datetime64[s]")).all(), column
        elif column == "store_and_fwd_flag":
            assert (got.fillna("") == want.fillna("")).all(), column
        else:
            np.testing.assert_array_equal(got.astype("float64"), want.astype("float64"), err_msg=column)


def test_head_gives_exactly_what_pandas_keeps(settings: Settings, head: Path) -> None:
    summary = yellow_taxi(str(head))

    assert_same_as_pandas(settings, head)
    sums = one_row(
        settings,
        "select count(*) as n, sum(trip_distance) as d, sum(fare_amount) as f, sum(total_amount) as t,"
        " sum(passenger_count) as p from {schema}.trip_data",
    )
    assert (sums["n"], sums["p"]) == (22_302, 34_811)
    assert [round(sums[name], 2) for name in "dft"] == [72_825.91, 274_850.90, 393_538.30]
    assert (summary.zero_removed, summary.tests_failed) == (489, 0)


def test_summary_artifacts_and_ledger_agree_with_the_file(
    settings: Settings, sample: SampleFacts, prefect_server: str
) -> None:
    summary = yellow_taxi(str(sample.path))

    assert_same_as_pandas(settings, sample.path)
    sums = one_row(settings, "select sum(fare_amount) as f, sum(total_amount) as t from {schema}.trip_data")
    assert (round(sums["f"], 2), round(sums["t"], 2)) == (sample.fare_amount, sample.total_amount)

    assert sample.unknown_passengers > 1_000
    expected = [
        sample.rows,
        sample.rows - sample.broken,
        sample.broken,
        0,
        sample.zero_passengers,
        sample.unknown_passengers,
        sample.trips,
    ]
    assert [rows for _, rows in summary.rows] == expected

    with open_warehouse(settings) as warehouse:
        (load,) = warehouse.loads()
        assert warehouse.count(load.load_id) == (load.rows_landed, load.rows_rejected)
    assert (load.status, load.rows_read, load.rows_landed, load.rows_rejected) == ("staged", *expected[:3])

    figures = newest_artifact(prefect_server, "yellow-taxi-2021-02")
    assert all(f"| {label} | {rows:,} |" in figures for label, rows in summary.rows)
    tests = newest_artifact(prefect_server, "yellow-taxi-tests-2021-02")
    assert tests.count('"status": "pass"') == summary.tests_passed > 20


def newest_artifact(prefect_server: str, key: str) -> str:
    wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
    (artifact,) = httpx.post(f"{prefect_server}/artifacts/filter", json=wanted, trust_env=False).json()
    return str(artifact["data"])


def test_same_file_again_loads_nothing_and_other_bytes_replace_the_month(
    settings: Settings, sample: SampleFacts, tmp_path: Path
) -> None:
    assert not yellow_taxi(str(sample.path)).already_landed
    again = yellow_taxi(str(sample.path))
    assert (again.already_landed, again.trips) == (True, sample.trips)

    other = write_sample(tmp_path / "yellow_tripdata_2021-02.csv", "2021-02", rows=5_000, seed=7)
    yellow_taxi(str(other.path))
    assert one_row(settings, "select count(*) as n from {schema}.trip_data")["n"] == other.trips
    with open_warehouse(settings) as warehouse:
        assert [load.status for load in warehouse.loads()] == ["superseded", "staged"]

    forced = yellow_taxi(str(other.path), force=True)
    assert (forced.already_landed, forced.trips) == (False, other.trips)


def test_failed_gate_names_test_column_and_rows_and_leaves_trip_data(
    settings: Settings, sample: SampleFacts, tmp_path: Path
) -> None:
    yellow_taxi(str(sample.path))
    poisoned = with_first_row(tmp_path / "yellow_tripdata_2021-03.csv", {"VendorID": "55"})

    with pytest.raises(TransformError) as failure:
        yellow_taxi(str(poisoned))

    assert str(failure.value) == (
        "the test stg_yellow_trips_vendorid_in_dictionary on column vendorid of stg_yellow_trips"
        " failed with 1 failing row."
    )
    kept = one_row(settings, "select count(*) as n, count(distinct file_month) as m from {schema}.trip_data")
    assert (kept["n"], kept["m"]) == (sample.trips, 1)


def test_value_that_does_not_cast_is_rejected_with_its_reason(settings: Settings, tmp_path: Path) -> None:
    path = with_first_row(tmp_path / "yellow_tripdata_2021-03.csv", {"passenger_count": "abc", "fare_amount": "NaN"})

    summary = yellow_taxi(str(path))

    assert summary.values_rejected == 1
    assert summary.trips + summary.zero_removed + 1 == summary.rows_landed == 2_000
    with open_warehouse(settings) as warehouse:
        rejects = warehouse.frame("select source_row, kind, reason from {schema}.trip_rejects")
    assert rejects.to_dict("records") == [
        {"source_row": 2, "kind": "wrong value", "reason": "passenger_count: abc; fare_amount: NaN"}
    ]


def with_first_row(path: Path, changes: dict[str, str]) -> Path:
    """A sample of 2,000 sound rows, some fields of the first one changed."""
    write_sample(path, path.stem.removeprefix("yellow_tripdata_"), rows=2_000, broken=0)
    header, first, rest = path.read_text().split("\n", 2)
    fields = dict(zip(header.split(","), first.split(","), strict=True)) | changes
    path.write_text("\n".join([header, ",".join(fields.values()), rest]))
    return path


REFUSED = {
    "an HTML page": (b"<!DOCTYPE html><html><body>Not found</body></html>\n", "is an HTML page"),
    "an empty file": (b"", "is empty"),
    "a truncated gzip": (None, "ends too early"),
    "a header only": (b"HEADER\n", "holds no trips"),
    "other columns": (b"a,b,c\n1,2,3\n", "none of the columns"),
    "too many broken lines": (b"HEADER\n1,2,3\n", "holds no trips"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_file_leaves_everything_as_it_was(
    settings: Settings, sample: SampleFacts, tmp_path: Path, what: str
) -> None:
    content, reason = REFUSED[what]
    packed = sample.path.read_bytes()
    header = b"VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,passenger_count,trip_distance,RatecodeID,"
    header += b"store_and_fwd_flag,PULocationID,DOLocationID,payment_type,fare_amount,extra,mta_tax,tip_amount,"
    header += b"tolls_amount,improvement_surcharge,total_amount"
    path = tmp_path / "yellow_tripdata_2021-02.csv"
    path.write_bytes(packed[: len(packed) // 2] if content is None else content.replace(b"HEADER", header))
    with open_warehouse(settings) as warehouse:
        assert warehouse.loads() == []

    with pytest.raises(FileRefused, match=reason):
        yellow_taxi(str(path))

    with open_warehouse(settings) as warehouse:
        assert all(load.status == "failed" and reason in str(load.error) for load in warehouse.loads())
        assert warehouse.frame("select count(*) as n from {raw}.yellow_trips")["n"].item() == 0


def test_error_of_the_flow_is_one_sentence(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TaxiError) as failure:
        yellow_taxi(str(tmp_path / "yellow_tripdata_2021-01.csv"))
    assert str(failure.value).startswith("There is no file")
