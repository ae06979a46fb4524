"""The flows: thin, in the order the data takes. What they call has no Prefect in it and is tested without it."""

import logging
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dbt_common.events.base_types import EventLevel
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task, exponential_backoff
from prefect_dbt import PrefectDbtRunner, PrefectDbtSettings

from prefect_flows import fetch, transform
from prefect_flows.errors import TaxiError, Unavailable
from prefect_flows.land import Landed, land, landed_from, roll_back
from prefect_flows.progress import progress
from prefect_flows.report import outputs
from prefect_flows.report.collect import Ran, collect
from prefect_flows.report.facts import Report
from prefect_flows.report.months import MonthLine, MonthsFailed, as_table, of_landing
from prefect_flows.settings import PROJECT_ROOT, Settings, Target, load_settings
from prefect_flows.tlc import month_of, months_between, parse_month
from prefect_flows.transform import NodeResult
from prefect_flows.warehouses import open_warehouse


def _is_unavailable(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Another try helps when a server did not answer, and only then."""
    try:
        state.result()
    except Unavailable:
        return True
    except Exception:
        return False
    return False


# Three more tries after about 5, 10 and 20 seconds, each up to half as long again.
_RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _is_unavailable,
    "cache_policy": NO_CACHE,
}


@task(task_run_name="download {month}", **_RETRIES)
def download(source: str, month: str, folder: Path) -> fetch.SourceFile:
    """The month's file on this machine, verified."""
    with progress(f"Downloading {month}", "bytes", get_run_logger().info) as advance:
        return fetch.fetch(source, folder, advance, month=month)


@task(task_run_name="load {month}", **_RETRIES)
def load(file: fetch.SourceFile, month: str, settings: Settings, force: bool) -> Landed:
    """The file as the month's staged load in the raw schema."""
    log = get_run_logger().info
    with open_warehouse(settings) as warehouse, progress(f"Landing {month}", "rows", log) as advance:
        landed = land(
            warehouse,
            file,
            month,
            max_reject_share=settings.max_reject_share,
            keep_loads=settings.keep_loads,
            force=force,
            on_rows=lambda rows: advance(rows, None),
        )
    log(f"Load {landed.load.load_id}: {'already there, ' if landed.was_there else ''}{_counts(landed)}")
    return landed


def _counts(landed: Landed) -> str:
    return f"{landed.load.rows_landed:,} rows landed, {landed.load.rows_rejected:,} rejected"


def _fetch_and_land(source: str, month: str, settings: Settings, force: bool) -> Landed:
    with tempfile.TemporaryDirectory(prefix="taxi-elt-") as folder:
        return load(download(source, month, Path(folder)), month, settings, force)


@task(**_RETRIES)
def prepare(settings: Settings) -> None:
    """The warehouse answers and has the raw tables, before many months ask for them at once."""
    with open_warehouse(settings):
        pass


@task(task_run_name="month {month}", cache_policy=NO_CACHE)
def land_month(source: str, month: str, settings: Settings, force: bool) -> Landed:
    """A month of a backfill, staged; what is staged from the same URL is not downloaded again."""
    if fetch.is_url(source) and not force:
        with open_warehouse(settings) as warehouse:
            if there := landed_from(warehouse, source, month):
                return there
    return _fetch_and_land(source, month, settings, force)


@task(task_run_name="dbt build", cache_policy=NO_CACHE)
def dbt_build(settings: Settings, months: list[str]) -> list[NodeResult]:
    """The months tested and published: one task run a node."""
    runner = PrefectDbtRunner(
        settings=PrefectDbtSettings(
            project_dir=PROJECT_ROOT,
            profiles_dir=PROJECT_ROOT,
            target_path=transform.target_path(settings),
            # a node's state is told by its task run; dbt's own lines are for what went wrong
            log_level=EventLevel.WARN,
        ),
        raise_on_failure=False,
        disable_assets=True,
    )
    before = set(threading.enumerate())
    try:
        return transform.run_dbt(partial(runner.invoke, log_level_file="debug", use_colors=False), settings, months)
    finally:
        _join_node_tasks(set(threading.enumerate()) - before)


def _join_node_tasks(threads: set[threading.Thread]) -> None:
    """Wait for the nodes' task runs: prefect-dbt leaves them to daemon threads, which an ending process cuts off."""
    for thread in threads:
        if thread.name.endswith("(run_task)"):
            thread.join(timeout=60)


@task(task_run_name="report", cache_policy=NO_CACHE)
def publish_report(settings: Settings, ran: Ran) -> Report:
    """What the run came to: a page, JSON and JUnit files, and artifacts whose keys are the same for the same months."""
    report = collect(settings, ran)
    files = outputs.write(report, settings.report_dir)
    months = "-".join(dict.fromkeys([ran.months[0], ran.months[-1]]))
    create_markdown_artifact(
        outputs.to_markdown(report), key=f"yellow-taxi-{months}", description=report.verdict.sentence
    )
    create_table_artifact(
        outputs.tests_table(report), key=f"yellow-taxi-tests-{months}", description=f"Tests of {months}"
    )
    create_link_artifact(
        files.html.as_uri(), link_text=files.html.name, key=f"yellow-taxi-report-{months}", description="Quality report"
    )
    get_run_logger().info("Report: %s", files.html)
    return report


@contextmanager
def _reported(settings: Settings, ran: Ran) -> Iterator[Ran]:
    """The run's report at its end, also where it fails; a report that cannot be made hides no other failure."""
    try:
        yield ran
    except Exception as error:
        ran.failed_with(error)
        try:
            publish_report(settings, ran)
        except Exception as of_report:
            get_run_logger().warning("There is no report of this run: %s", of_report)
        raise


def _run_name() -> str:
    given = flow_run.parameters
    return f"yellow-taxi {given.get('month') or month_of(str(given.get('source'))) or '?'}"


@flow(name="yellow-taxi", flow_run_name=_run_name)
def yellow_taxi(
    source: str | None = None,
    month: str | None = None,
    target: Target | None = None,
    force: bool = False,
    max_reject_share: float | None = None,
) -> Report:
    """Load a month of yellow-taxi trips and publish it as trip_data.

    Args:
        source: URL or path of the month's file, Parquet or CSV, plain or gzip; left out, TAXI_SOURCE_TEMPLATE tells it.
        month: The month as YYYY-MM; left out, the file's name tells it.
        target: duckdb or cratedb; left out, the setting TAXI_TARGET decides.
        force: Load the file even where the same bytes are already loaded.
        max_reject_share: Share of broken rows, 0 to 1, above which the file is refused.
    """
    settings = load_settings(target=target, max_reject_share=max_reject_share)
    source, month = fetch.locate(source, month, settings.source_template)
    with _reported(settings, Ran(_run_name(), [month])) as ran:
        ran.landed[month] = _fetch_and_land(source, month, settings, force).was_there
        _publish(settings, ran)
    return publish_report(settings, ran)


def _publish(settings: Settings, ran: Ran) -> None:
    ran.results = dbt_build(settings, list(ran.landed))
    transform.raise_for_failures(ran.results)


@task(task_run_name="stage the earlier load of {month}", **_RETRIES)
def restage(month: str, settings: Settings) -> Landed:
    """The month's load before the staged one, staged again."""
    with open_warehouse(settings) as warehouse:
        return Landed(roll_back(warehouse, month), was_there=True)


@flow(name="yellow-taxi-rollback", flow_run_name="yellow-taxi {month} rollback")
def yellow_taxi_rollback(month: str, target: Target | None = None) -> Report:
    """Publish the load that a month had before its newest one, through the same tests.

    Args:
        month: The month as YYYY-MM.
        target: duckdb or cratedb; left out, the setting TAXI_TARGET decides.
    """
    settings, month = load_settings(target=target), parse_month(month)
    with _reported(settings, Ran(f"yellow-taxi {month} rollback", [month])) as ran:
        ran.landed[month] = restage(month, settings).was_there
        _publish(settings, ran)
    return publish_report(settings, ran)


@flow(name="yellow-taxi-backfill", flow_run_name="yellow-taxi {from_month} to {to_month}")
def yellow_taxi_backfill(
    from_month: str,
    to_month: str,
    source_template: str | None = None,
    parallel: int | None = None,
    target: Target | None = None,
    force: bool = False,
    max_reject_share: float | None = None,
) -> list[MonthLine]:
    """Load a range of months side by side and publish them; a month that fails does not stop the others.

    Args:
        from_month: The first month as YYYY-MM.
        to_month: The last month as YYYY-MM.
        source_template: URL or path with {month} in it; left out, the setting TAXI_SOURCE_TEMPLATE decides.
        parallel: How many months are downloaded and loaded at once; left out, TAXI_PARALLEL_MONTHS decides.
        target: duckdb or cratedb; left out, the setting TAXI_TARGET decides.
        force: Load the months even where the same files are already loaded.
        max_reject_share: Share of broken rows, 0 to 1, above which a file is refused.
    """
    settings = load_settings(
        target=target, max_reject_share=max_reject_share, source_template=source_template, parallel_months=parallel
    )
    sources = {
        month: fetch.locate(None, month, settings.source_template)[0] for month in months_between(from_month, to_month)
    }
    with _reported(settings, Ran(f"yellow-taxi {from_month} to {to_month}", list(sources))) as ran:
        prepare(settings)
        months = _land_side_by_side(settings, sources, force)
        create_table_artifact(as_table(months), key="yellow-taxi-backfill", description=f"{from_month} to {to_month}")
        ran.errors = {line.month: line.why for line in months if line.state == "failed"}
        ran.landed = {line.month: line.state == "already there" for line in months if line.month not in ran.errors}
        failure = ""
        if ran.landed:
            ran.results = dbt_build(settings, list(ran.landed))
            failure = transform.failures(ran.results)
        if failure or ran.errors:
            raise MonthsFailed(months, failure)
    publish_report(settings, ran)
    return months


def _land_side_by_side(settings: Settings, sources: dict[str, str], force: bool) -> list[MonthLine]:
    side_by_side: ThreadPoolTaskRunner[Landed] = ThreadPoolTaskRunner(max_workers=settings.parallel_months)
    with side_by_side as runner:
        futures = {
            month: runner.submit(land_month, {"source": source, "month": month, "settings": settings, "force": force})
            for month, source in sources.items()
        }
        return [of_landing(month, _outcome(future)) for month, future in futures.items()]


def _outcome(future: PrefectFuture[Landed]) -> Landed | Exception:
    try:
        return future.result()
    except Exception as error:  # a month that fails, for whatever reason, does not stop the others
        return error


class _OneSentence(logging.Filter):
    """An error of ours or of a dbt node is a sentence that says what is wrong: a traceback would only hide it."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, TaxiError) or re.match(r"Node \S+ finished with status", str(error)):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_OneSentence())
