"""Runs dbt over what has landed, and gives its results as plain records.

`dbt_arguments` is the one place that says how this project calls dbt; `run_dbt` calls it through whatever invokes it
(Prefect's runner in a flow, dbt's own in a test); `raise_for_failures` turns what failed into one sentence.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dbt_common.invocation import get_invocation_id

from prefect_flows.errors import TaxiError, TransformError, Unavailable
from prefect_flows.settings import PROJECT_ROOT, Settings, in_environment
from prefect_flows.warehouses import CRATEDB_STARTS

Kind = Literal["model", "test", "unit test", "freshness", "hook"]
# Two dbt invocations in one process share its adapters and its working directory, and disturb each other.
_ONE_AT_A_TIME = threading.Lock()

GATE_LAYERS = 2
_FAILED = ("fail", "error", "runtime error")
_FOUND = re.compile(r"(\d+)(?: of (\d+))? rows")


@dataclass(frozen=True)
class NodeResult:
    """What became of one dbt node.

    `status` is dbt's own (`success`, `pass`, `warn`, `fail`, `error`, `skipped`); `failures` is the number that a
    test returned, `failing_rows` all that it found, those that it tolerates included, of `tested_rows` where it counts
    them; `column` and `model` say what a test looked at, where its definition tells; `rule` is the test's
    description; `seconds` is the time it took; `gate` says that it is a test which stands before publication; `sql` is
    what dbt sent for it, where it got that far; `run_id` is dbt's invocation.
    """

    name: str
    kind: Kind
    status: str
    failures: int | None
    message: str
    column: str | None
    model: str | None
    rule: str
    seconds: float
    gate: bool = False
    unique_id: str = ""
    severity: str | None = None
    sql: str = ""
    run_id: str = ""
    failing_rows: int | None = None
    tested_rows: int | None = None

    @property
    def failed(self) -> bool:
        """Whether it keeps a run from being a success; a warning does not."""
        return self.status in _FAILED


Command = Literal["build", "test", "source freshness"]

# Unit tests are about code, and the gate about what is not published.
_LEFT_OUT = {
    "build": ["--exclude-resource-type", "unit_test"],
    "test": ["--exclude-resource-type", "unit_test", "--exclude", "tag:gate"],
}


def dbt_arguments(settings: Settings, command: Command = "build") -> list[str]:
    """The arguments of a flow's dbt run: `build` tests and publishes what is pending, `test` tests what is published,
    `source freshness` asks when a month was last loaded."""
    return [
        *command.split(),
        "--target",
        settings.target,
        "--project-dir",
        str(PROJECT_ROOT),
        "--profiles-dir",
        str(PROJECT_ROOT),
        "--target-path",
        str(target_path(settings)),
        "--log-path",
        str(PROJECT_ROOT / "logs"),
        *_LEFT_OUT.get(command, []),
    ]


def target_path(settings: Settings) -> Path:
    """Where dbt puts what it makes: `DBT_TARGET_PATH` as in plain dbt, or a folder for each target, so that a change of
    target does not make it parse everything anew."""
    return PROJECT_ROOT / os.environ.get("DBT_TARGET_PATH", "target") / settings.target


Invoke = Callable[[list[str]], Any]


def run_dbt(invoke: Invoke, settings: Settings, months: Sequence[str] = ()) -> list[NodeResult]:
    """Build and test what is pending.

    One month that fails the gate keeps dbt from publishing any: it is recorded as refused, and dbt runs again for the
    others. One that fails a test once it is published keeps dbt from testing all of the others: it is recorded as
    suspect, and dbt runs again as well.

    Args:
        invoke: takes dbt's arguments and gives back a `dbtRunnerResult`.
        settings: which target, and the connection to it.
        months: the months to publish; none means all.

    Raises:
        Unavailable: the server went away meanwhile.
        TransformError: dbt did not get as far as running a node.
    """
    with _alone(settings, TAXI_MONTHS=",".join(months)):
        earlier: list[NodeResult] = []
        # Tests on staging come first; a month that passes them may fail the one that waits for every value's cast, and
        # then one on what is published.
        for _ in range(GATE_LAYERS + 1):
            results = _run_once(invoke, settings, "build")
            failed = [result for result in results if result.status == "fail"]
            if not failed or len(months) == 1:
                return earlier + results
            earlier += failed
        return earlier + _run_once(invoke, settings, "build")


def check_published(invoke: Invoke, settings: Settings) -> list[NodeResult]:
    """Test everything that is published, and ask how fresh it is; what is published does not change, and
    `test_results` gets what was found.

    Raises:
        Unavailable, TransformError: as `run_dbt`.
    """
    with _alone(settings):
        return _run_once(invoke, settings, "test") + _run_once(invoke, settings, "source freshness")


@contextmanager
def _alone(settings: Settings, **variables: str) -> Iterator[None]:
    with _ONE_AT_A_TIME, in_environment(settings, **variables):
        if settings.target == "cratedb":
            from dbt.adapters.cratedb.connections import CrateDBConnectionManager

            CrateDBConnectionManager.cancel = _cancel  # type: ignore[method-assign]
        try:
            yield
        finally:
            if settings.target == "duckdb":
                from dbt.adapters.duckdb.connections import DuckDBConnectionManager

                # dbt would keep the file, which the next run in line is to open, until this process has ended
                DuckDBConnectionManager.close_all_connections()  # type: ignore[no-untyped-call]


def _cancel(_: Any, connection: Any) -> None:
    """In place of the adapter's own, which calls a function that CrateDB does not have: the statement and the
    connection end, so that a node does not go on with its next statement."""
    connection.handle.cancel()
    connection.handle.close()


def _run_once(invoke: Invoke, settings: Settings, command: Command) -> list[NodeResult]:
    try:
        outcome = invoke(dbt_arguments(settings, command))
    except ValueError as error:  # what Prefect's runner makes of an error that dbt raises
        raise _could_not_run(str(error)) from None
    if outcome.exception is not None:
        raise _could_not_run(str(outcome.exception))
    results = [_record(result) for result in outcome.result.results]
    for result in results:
        if result.failed and _is_away(result.message):
            raise Unavailable(
                f"CrateDB broke off while dbt ran {result.name} ({_one_line(result.message)}): run again when it is "
                "up, as a month is published whole or not at all."
            )
    return results


# libpq's words. A CrateDB that starts refuses its users, too: the flow has logged in before.
_CONNECTION_LOST = re.compile(
    r"connection to server .* failed|server closed the connection"
    r"|connection (already closed|refused)|could not (connect|receive data)|terminating connection"
    r"|no connection to the server",
    re.IGNORECASE | re.DOTALL,
)


def _is_away(message: str) -> bool:
    return bool(_CONNECTION_LOST.search(message) or CRATEDB_STARTS.search(message))


def _could_not_run(message: str) -> TaxiError:
    kind = Unavailable if _is_away(message) else TransformError
    return kind(f"dbt could not run: {_one_line(message)}.")


def raise_for_failures(results: Sequence[NodeResult]) -> None:
    """Do nothing when every model was built and no test of error severity failed.

    Raises:
        TransformError: the sentence that `failures` gives.
    """
    if said := failures(results):
        raise TransformError(said)


def failures(results: Sequence[NodeResult]) -> str:
    """What failed, in a sentence: each test with its column and its number of failing rows, each model with dbt's
    message. Empty when every model was built and no test of error severity failed."""
    failed = [result for result in results if result.failed]
    return "; ".join(_failure(result) for result in failed) + "." if failed else ""


def _failure(result: NodeResult) -> str:
    if result.kind == "freshness" and result.status == "error":
        return f"the data is old: {_one_line(result.rule)}"
    if result.status != "fail":
        return f"dbt could not run the {result.kind} {result.name}: {_one_line(result.message)}"
    place = " of ".join(part for part in (result.column and f"column {result.column}", result.model) if part)
    rows = f"{result.failures:,} failing row{'s' * (result.failures != 1)}"
    return f"the test {result.name}{f' on {place}' if place else ''} failed with {rows}"


def _record(result: Any) -> NodeResult:
    node = result.node
    kinds: dict[str, Kind] = {"model": "model", "test": "test", "unit_test": "unit test", "source": "freshness"}
    attached = getattr(node, "attached_node", None)
    severity = getattr(getattr(node, "config", None), "severity", None)
    # as macros/tests/test.sql says it
    found = _FOUND.fullmatch(str((getattr(result, "adapter_response", None) or {}).get("_message")))
    rule = " ".join((getattr(node, "description", "") or "").split())
    if isinstance(age := getattr(result, "age", None), float):
        rule = f"A month was last loaded {age / 86_400:,.1f} days ago."
    return NodeResult(
        name=node.name,
        kind=kinds.get(str(node.resource_type), "hook"),
        status=str(result.status),
        failures=getattr(result, "failures", None),
        message=result.message or "",
        column=getattr(node, "column_name", None),
        model=attached.rsplit(".", 1)[-1] if attached else None,
        rule=rule,
        seconds=round(result.execution_time, 3),
        gate="gate" in getattr(node, "tags", []),
        unique_id=getattr(node, "unique_id", ""),
        severity=severity and str(severity).lower(),
        sql=(getattr(node, "compiled_code", None) or "").strip(),
        run_id=get_invocation_id(),
        failing_rows=int(found[1]) if found else None,
        tested_rows=int(found[2]) if found and found[2] else None,
    )


def _one_line(message: str) -> str:
    return " ".join(message.split()).rstrip(".")
