"""How dbt is called, and what its results become, by results made by hand: no dbt run."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from dbt.artifacts.resources.types import NodeType
from dbt.artifacts.schemas.results import RunStatus, TestStatus
from dbt.cli.flags import args_to_context
from dbt_common.invocation import get_invocation_id

from prefect_flows.errors import TransformError
from prefect_flows.settings import PROJECT_ROOT, Settings, load_settings
from prefect_flows.transform import NodeResult, dbt_arguments, raise_for_failures, run_dbt, target_path


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        os.environ.pop("DBT_TARGET_PATH", None)
        yield


def options(arguments: list[str]) -> dict[str, str]:
    return dict(zip(arguments[1::2], arguments[2::2], strict=True))


def result(status: str = "pass", *, kind: Any = "test", **changes: Any) -> NodeResult:
    values: dict[str, Any] = {
        "name": "not_null_trip_data_vendorid",
        "kind": kind,
        "status": status,
        "failures": 0,
        "message": "",
        "column": None,
        "model": None,
        "rule": "",
        "seconds": 0.1,
    }
    return NodeResult(**values | changes)


def raw(status: Any, kind: NodeType = NodeType.Test, node: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A result as dbt gives it."""
    attributes = {"name": "a_node", "resource_type": kind} | (node or {})
    values: dict[str, Any] = {
        "status": status,
        "failures": None,
        "message": None,
        "execution_time": 0.0,
        "adapter_response": {},
    }
    return SimpleNamespace(node=SimpleNamespace(**attributes), **values | changes)


def outcome(*results: Any) -> Any:
    return SimpleNamespace(exception=None, result=SimpleNamespace(results=list(results)))


def records(*results: Any) -> list[NodeResult]:
    return run_dbt(lambda _: outcome(*results), load_settings(), ["2021-01"])


# --- arguments


@pytest.mark.parametrize("target", ["duckdb", "cratedb"], ids=str.title)
def test_dbt_builds_the_settings_target_without_unit_tests(target: str) -> None:
    arguments = dbt_arguments(load_settings(target=target))
    assert arguments[0] == "build"
    assert options(arguments)["--target"] == target
    assert options(arguments)["--exclude-resource-type"] == "unit_test"


def test_no_flag_is_repeated() -> None:
    arguments = dbt_arguments(load_settings())
    flags = [argument for argument in arguments if argument.startswith("-")]
    assert len(flags) == len(set(flags)) == len(options(arguments))


def test_every_path_is_absolute_and_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {flag: Path(value) for flag, value in options(dbt_arguments(load_settings())).items() if "/" in value}
    assert paths == {
        "--project-dir": PROJECT_ROOT,
        "--profiles-dir": PROJECT_ROOT,
        "--target-path": PROJECT_ROOT / "target" / "duckdb",
        "--log-path": PROJECT_ROOT / "logs",
    }
    assert all(path.is_absolute() for path in paths.values())


@pytest.mark.parametrize(
    ("given", "folder"), [("elsewhere", PROJECT_ROOT / "elsewhere"), ("/elsewhere", Path("/elsewhere"))]
)
def test_dbt_target_path_moves_the_folder_of_each_target(given: str, folder: Path) -> None:
    os.environ["DBT_TARGET_PATH"] = given
    assert [target_path(load_settings(target=name)) for name in ("duckdb", "cratedb")] == [
        folder / "duckdb",
        folder / "cratedb",
    ]


def test_dbt_understands_the_arguments() -> None:
    context = args_to_context(dbt_arguments(load_settings(target="cratedb")))
    assert context.command.name == "build"
    assert (context.params["target"], context.params["exclude_resource_types"]) == ("cratedb", ("unit_test",))


# --- the run


def test_dbt_runs_in_the_environment_of_the_settings_and_with_their_arguments() -> None:
    settings = load_settings(target="cratedb", cratedb_host="db.example", cratedb_password="secret")
    seen: list[Any] = []

    def invoke(arguments: list[str]) -> Any:
        seen.extend([arguments, {name: os.environ.get(name) for name in settings.environment()}])
        return outcome()

    assert run_dbt(invoke, settings) == []
    assert seen == [dbt_arguments(settings), settings.environment()]
    assert "CRATEDB_HOST" not in os.environ


def test_one_dbt_runs_at_a_time() -> None:
    running: list[int] = []
    most: list[int] = []

    def invoke(_: list[str]) -> Any:
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
        return outcome()

    settings = load_settings()
    threads = [threading.Thread(target=run_dbt, args=(invoke, settings)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def fails_with(error: Exception) -> Any:
    def invoke(_: list[str]) -> Any:
        raise error

    return invoke


@pytest.mark.parametrize(
    "invoke",
    [
        fails_with(ValueError("Compilation Error\n  model 'x'\n  depends on 'y'.")),
        lambda _: SimpleNamespace(
            exception=RuntimeError("Compilation Error\n  model 'x'\n  depends on 'y'."), result=None
        ),
    ],
    ids=["raised", "given back"],
)
def test_an_error_before_the_first_node_is_told_in_one_line(invoke: Any) -> None:
    with pytest.raises(TransformError) as error:
        run_dbt(invoke, load_settings())
    assert str(error.value) == "dbt could not run: Compilation Error model 'x' depends on 'y'."


def test_another_dbt_may_run_after_one_that_failed() -> None:
    with pytest.raises(TransformError):
        run_dbt(fails_with(ValueError("no")), load_settings())
    with pytest.raises(OSError, match="no"):
        run_dbt(fails_with(OSError("no")), load_settings())
    assert records(raw(TestStatus.Pass))[0].status == "pass"


# --- records


def test_a_tests_result_becomes_a_record() -> None:
    node = {
        "name": "accepted_values_stg_yellow_trips_vendorid",
        "column_name": "vendorid",
        "attached_node": "model.taxi_elt.stg_yellow_trips",
        "description": "The vendor is\n  one of\tthe dictionary's.\n",
        "unique_id": "test.taxi_elt.vendorid",
        "config": SimpleNamespace(severity="ERROR"),
        "compiled_code": "\nselect 1\n",
    }
    [record] = records(raw(TestStatus.Fail, node=node, failures=3, message="Got 3 results", execution_time=1.23456))
    assert record == NodeResult(
        name="accepted_values_stg_yellow_trips_vendorid",
        kind="test",
        status="fail",
        failures=3,
        message="Got 3 results",
        column="vendorid",
        model="stg_yellow_trips",
        rule="The vendor is one of the dictionary's.",
        seconds=1.235,
        unique_id="test.taxi_elt.vendorid",
        severity="error",
        sql="select 1",
        run_id=get_invocation_id(),
    )


@pytest.mark.parametrize(
    ("resource", "kind"),
    [
        (NodeType.Model, "model"),
        (NodeType.Test, "test"),
        (NodeType.Unit, "unit test"),
        (NodeType.Operation, "hook"),
    ],
)
def test_a_record_tells_the_kind_of_its_node(resource: NodeType, kind: str) -> None:
    assert records(raw(RunStatus.Success, resource))[0].kind == kind


@pytest.mark.parametrize("attributes", [{}, {"column_name": None, "attached_node": None, "description": None}])
def test_what_a_node_does_not_tell_is_left_open(attributes: dict[str, Any]) -> None:
    [record] = records(raw(RunStatus.Success, NodeType.Model, attributes))
    assert (record.column, record.model, record.rule, record.message, record.failures) == (None, None, "", "", None)


@pytest.mark.parametrize(
    ("words", "found"),
    [("199 of 22302 rows", (199, 22302)), ("0 of 0 rows", (0, 0)), ("3 rows", (3, None)), ("OK", (None, None))],
)
def test_a_record_tells_all_rows_that_a_test_found(words: str, found: tuple[int | None, int | None]) -> None:
    [record] = records(raw(TestStatus.Pass, failures=0, adapter_response={"_message": words, "code": "SELECT"}))
    assert (record.failing_rows, record.tested_rows) == found


@pytest.mark.parametrize(("failing_runs", "runs"), [(0, 1), (1, 2), (3, 4), (9, 4)])
def test_dbt_runs_again_for_the_months_that_pass_and_ends(failing_runs: int, runs: int) -> None:
    ran: list[Any] = []

    def invoke(_: list[str]) -> Any:
        ran.append(1)
        status = TestStatus.Fail if len(ran) <= failing_runs else TestStatus.Pass
        tags = ["gate"] if len(ran) == 1 else []
        return outcome(raw(status, node={"name": f"run_{len(ran)}", "tags": tags}))

    results = run_dbt(invoke, load_settings())
    assert len(ran) == runs
    assert [result.name for result in results] == [f"run_{number}" for number in range(1, runs + 1)]
    ran.clear()
    run_dbt(invoke, load_settings(), ["2021-01"])
    assert len(ran) == 1


def test_records_keep_dbts_order() -> None:
    names = ["c", "a", "b"]
    assert [record.name for record in records(*(raw(TestStatus.Pass, node={"name": name}) for name in names))] == names


@pytest.mark.parametrize(
    ("status", "failed"),
    [
        (RunStatus.Success, False),
        (TestStatus.Pass, False),
        (TestStatus.Warn, False),
        (TestStatus.Skipped, False),
        (RunStatus.Skipped, False),
        (TestStatus.Fail, True),
        (TestStatus.Error, True),
        (RunStatus.Error, True),
    ],
)
def test_a_failure_or_an_error_fails_the_run_and_nothing_else_does(status: Any, failed: bool) -> None:
    assert records(raw(status))[0].failed is failed


# --- the sentence


def sentence(*results: NodeResult) -> str:
    with pytest.raises(TransformError) as error:
        raise_for_failures(results)
    return str(error.value)


def test_nothing_failed_raises_nothing() -> None:
    raise_for_failures([result("pass"), result("warn", failures=3), result("skipped"), result("success", kind="model")])


@pytest.mark.parametrize(
    ("failed", "words"),
    [
        (
            result("fail", failures=1234, column="vendorid", model="trip_data"),
            "the test not_null_trip_data_vendorid on column vendorid of trip_data failed with 1,234 failing rows.",
        ),
        (
            result("fail", failures=1, model="trip_data"),
            "the test not_null_trip_data_vendorid on trip_data failed with 1 failing row.",
        ),
        (
            result("fail", failures=2, column="vendorid"),
            "the test not_null_trip_data_vendorid on column vendorid failed with 2 failing rows.",
        ),
        (result("fail", failures=2, name="assert_x"), "the test assert_x failed with 2 failing rows."),
        (
            result("error", name="assert_x", message="Database Error in test\n  no such column: y\n"),
            "dbt could not run the test assert_x: Database Error in test no such column: y.",
        ),
        (
            result("error", kind="model", name="trip_data", message="Runtime Error."),
            "dbt could not run the model trip_data: Runtime Error.",
        ),
        (
            result("error", kind="hook", name="on-run-start-0", message="no month is loaded"),
            "dbt could not run the hook on-run-start-0: no month is loaded.",
        ),
    ],
)
def test_a_failure_is_told_with_what_where_and_how_many(failed: NodeResult, words: str) -> None:
    assert sentence(failed) == words


def test_all_failures_are_told_and_nothing_else() -> None:
    told = sentence(
        result("pass", name="fine"),
        result("fail", name="first", failures=2),
        result("warn", name="odd", failures=7),
        result("error", name="second", kind="model", message="Bad."),
        result("skipped", name="left_out"),
    )
    assert told == "the test first failed with 2 failing rows; dbt could not run the model second: Bad."


def test_what_dbt_gives_reaches_the_sentence(tmp_path: Path) -> None:
    settings: Settings = load_settings(duckdb_path=str(tmp_path / "x.duckdb"))
    node = {
        "name": "unique_trip_data_source_row",
        "column_name": "source_row",
        "attached_node": "model.taxi_elt.trip_data",
    }
    results = run_dbt(lambda _: outcome(raw(TestStatus.Fail, node=node, failures=2)), settings, ["2021-01"])
    assert sentence(*results) == (
        "the test unique_trip_data_source_row on column source_row of trip_data failed with 2 failing rows."
    )
