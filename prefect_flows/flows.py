"""The flows: thin, in the order the data takes. What they call has no Prefect in it and is tested without it."""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Annotated, Any
from uuid import UUID

import httpx
from dbt_common.events.base_types import EventLevel
from prefect import flow, get_client, get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task, exponential_backoff
from prefect_dbt import DbtHookContext, PrefectDbtRunner, PrefectDbtSettings
from pydantic import Field, SecretStr

from prefect_flows import events, fetch, transform
from prefect_flows.errors import NotPublished, Stopped, TaxiError, TransformError, Unavailable, UsageError
from prefect_flows.land import Landed, land, landed_from, roll_back
from prefect_flows.limits import alone
from prefect_flows.progress import Advance, progress
from prefect_flows.report import outputs
from prefect_flows.report.collect import Ran, collect
from prefect_flows.report.facts import Report
from prefect_flows.report.months import MonthLine, MonthsFailed, as_table, of_landing, published_since
from prefect_flows.settings import PROJECT_ROOT, ParallelMonths, Settings, Share, Target, load_settings
from prefect_flows.tlc import Month, due_months, month_of, months_between, parse_month
from prefect_flows.transform import NodeResult
from prefect_flows.warehouses import now, open_warehouse


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


# Set when a run is told to stop: threads do not get the signal.
_stop = threading.Event()


@contextmanager
def _progress(what: str, unit: str, on_share: Callable[[float], None] | None = None) -> Iterator[Advance]:
    """The progress of a step, which ends where the run is told to stop."""
    with progress(what, unit, get_run_logger().info, on_share) as advance:

        def go_on(done: int, share: float | None = None) -> None:
            if _stop.is_set():
                raise Stopped("The run was told to stop: run again, it goes on with what is missing.")
            advance(done, share)

        yield go_on


@task(task_run_name="download {month}", **_RETRIES)
def download(source: str, month: str, folder: Path) -> fetch.SourceFile | NotPublished:
    """The month's file on this machine, verified; or that it is not published yet, which is no failure of this step."""
    try:
        with _progress(f"Downloading {month}", "bytes") as advance:
            return fetch.fetch(source, folder, advance, month=month)
    except NotPublished as error:
        get_run_logger().info(str(error))
        return error


@task(task_run_name="load {month}", **_RETRIES)
def load(file: fetch.SourceFile, month: str, settings: Settings, force: bool) -> Landed:
    """The file as the month's staged load in the raw schema."""
    with (
        open_warehouse(settings) as warehouse,
        _progress_artifact(month) as on_share,
        _progress(f"Landing {month}", "rows", on_share) as advance,
    ):
        landed = land(
            warehouse,
            file,
            month,
            max_reject_share=settings.max_reject_share,
            keep_loads=settings.keep_loads,
            force=force,
            on_rows=advance,
        )
    there = "already there, " if landed.was_there else ""
    get_run_logger().info(f"Load {landed.load.load_id}: {there}{_counts(landed)}")
    if not landed.was_there:
        events.load_completed(settings, landed)
    return landed


@contextmanager
def _progress_artifact(month: str) -> Iterator[Callable[[float], None]]:
    artifact: Any = create_progress_artifact(0, key=f"yellow-taxi-load-{month}", description=f"Landing {month}")

    def show(share: float) -> None:
        # a load goes on while Prefect's server is away
        with suppress(httpx.HTTPError):
            update_progress_artifact(artifact, round(100 * share, 1))

    yield show
    show(1)


def _counts(landed: Landed) -> str:
    return f"{landed.load.rows_landed:,} rows landed, {landed.load.rows_rejected:,} rejected"


def _fetch_and_land(source: str, month: str, settings: Settings, force: bool) -> Landed:
    with fetch.download_folder() as folder:
        file = download(source, month, folder)
        if isinstance(file, NotPublished):
            raise file
        return load(file, month, settings, force)


def _land_what_is_missing(source: str, month: str, settings: Settings, force: bool = False) -> Landed:
    """As `_fetch_and_land`; what is staged from the same URL is not downloaded again."""
    if fetch.is_url(source) and not force and (there := look_for(source, month, settings)):
        return there
    return _fetch_and_land(source, month, settings, force)


@task(task_run_name="look for {month}", **_RETRIES)
def look_for(source: str, month: str, settings: Settings) -> Landed | None:
    """The month's staged load, where it came from this URL."""
    with open_warehouse(settings) as warehouse:
        return landed_from(warehouse, source, month)


@task(**_RETRIES)
def prepare(settings: Settings) -> None:
    """The warehouse answers and has the raw tables, before many months ask for them at once."""
    with open_warehouse(settings):
        pass


@task(task_run_name="month {month}", cache_policy=NO_CACHE)
def land_month(source: str, month: str, settings: Settings, force: bool) -> Landed:
    """A month of a backfill, staged."""
    return _land_what_is_missing(source, month, settings, force)


@task(task_run_name="dbt build", **_RETRIES)
def dbt_build(settings: Settings, months: list[str]) -> list[NodeResult]:
    """The months tested and published: one task run a node."""
    with _dbt(settings) as invoke:
        return transform.run_dbt(invoke, settings, months)


@task(task_run_name="dbt test", **_RETRIES)
def dbt_test(settings: Settings) -> list[NodeResult]:
    """Everything that is published tested, and how fresh it is: one task run a node."""
    with _dbt(settings) as invoke:
        return transform.check_published(invoke, settings)


@contextmanager
def _dbt(settings: Settings) -> Iterator[transform.Invoke]:
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
    runner.on_run_end(_stop_where_told)
    before = set(threading.enumerate())
    try:
        yield partial(runner.invoke, log_level_file="debug", use_colors=False)
    finally:
        _join_node_tasks(set(threading.enumerate()) - before)


def _stop_where_told(ended: DbtHookContext) -> None:
    """dbt takes Ctrl-C, SIGTERM and a cancellation for a failure of its own, and Prefect would call the run failed."""
    if ended.error is None or isinstance(ended.error, Exception):
        return
    from dbt.task.runnable import GraphRunnableTask  # imported at the top, it would set up logging before Prefect does

    # It ends what it runs for Ctrl-C only, and that must not outlive the run.
    for frame, _ in walk_tb(ended.error.__traceback__):
        if frame.f_code is GraphRunnableTask.execute_nodes.__code__ and not isinstance(ended.error, KeyboardInterrupt):
            frame.f_locals["self"]._cancel_connections(frame.f_locals["pool"])
    raise ended.error


def _join_node_tasks(threads: set[threading.Thread]) -> None:
    """Wait for the nodes' task runs: prefect-dbt leaves them to daemon threads, which an ending process cuts off."""
    for thread in threads:
        if thread.name.endswith("(run_task)"):
            thread.join(timeout=20)


@task(task_run_name="report", cache_policy=NO_CACHE)
def publish_report(settings: Settings, ran: Ran) -> Report:
    """What the run came to: a page, JSON and JUnit files, and artifacts whose keys are the same for the same months."""
    report = collect(settings, ran)
    files = outputs.write(report, settings.report_dir)
    months = "-".join(dict.fromkeys([ran.months[0], ran.months[-1]])) if ran.months else "quality"
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
    return f"yellow-taxi {given.get('month') or month_of(str(given.get('source'))) or 'next month'}"


@flow(name="yellow-taxi", flow_run_name=_run_name)
def yellow_taxi(
    source: str | None = None,
    month: Month | None = None,
    target: Target | None = None,
    force: bool = False,
    max_reject_share: Share | None = None,
) -> Report | State[Any]:
    """Load a month of yellow-taxi trips and publish it as trip_data.

    With neither a source nor a month it is the newest month: the earlier of the two newest that the TLC may have
    published and that is not loaded yet. A month that the TLC has not published yet is no failure.

    Args:
        source: URL or path of the month's file, Parquet or CSV, plain or gzip; left out, TAXI_SOURCE_TEMPLATE tells it.
        month: The month as YYYY-MM; left out, the file's name tells it.
        target: duckdb or cratedb; left out, the setting TAXI_TARGET decides.
        force: Load the file even where the same bytes are already loaded.
        max_reject_share: Share of broken rows, 0 to 1, above which the file is refused.
    """
    settings = _settings(target=target, max_reject_share=max_reject_share)
    if source or month:
        place, month = fetch.locate(source, month, settings.source_template)
        fetch_and_land = partial(_fetch_and_land, force=force)
    else:
        with alone(settings):
            month = next_month(settings)
        place, month = fetch.locate(None, month, settings.source_template)
        fetch_and_land = partial(_land_what_is_missing, force=force)
    _describe_run(f"yellow-taxi {month}", month, settings.target)
    with alone(settings, [month]):
        with _reported(settings, Ran(f"yellow-taxi {month}", [month])) as ran:
            try:
                ran.landed[month] = fetch_and_land(place, month, settings).was_there
            except NotPublished as error:
                if source:
                    raise
                return Completed(name="Not published yet", message=str(error))
            _publish(settings, ran)
        return publish_report(settings, ran)


@task(task_run_name="find the next month", **_RETRIES)
def next_month(settings: Settings) -> str:
    """The earlier of the two newest months that the TLC may have published and that is not staged; else the newest."""
    months = due_months()
    with open_warehouse(settings) as warehouse:
        staged = {load.file_month for load in warehouse.loads() if load.status == "staged"}
    return next((month for month in months if month not in staged), months[-1])


def _settings(**given: Any) -> Settings:
    """The settings of a run, with the password out of Prefect's Secret block where the environment has none."""
    settings = load_settings(**given)
    block = settings.cratedb_password_block
    if settings.target != "cratedb" or not block or settings.cratedb_password.get_secret_value():
        return settings
    try:
        password = Secret.load(block, _sync=True).get()  # type: ignore[call-arg,union-attr]
    except ValueError:
        raise UsageError(
            f"Prefect has no Secret block {block!r}, which CRATEDB_PASSWORD_BLOCK names: create it, in the UI or with "
            "prefect.blocks.system.Secret."
        ) from None
    return settings.model_copy(update={"cratedb_password": SecretStr(str(password))})


def _describe_run(name: str, *tags: str) -> None:
    """Names and tags the run after what it turns out to be about."""
    if run := flow_run.id:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(run), name=name, tags={*flow_run.tags, "yellow-taxi", *tags})


def _publish(settings: Settings, ran: Ran) -> None:
    """Run dbt over the months that landed, and tell what came of it as events."""
    since, months = now(), list(ran.landed)
    ran.results = dbt_build(settings, months)
    _tell_failures(settings, months, ran.results)
    tell_published(settings, months, since)
    transform.raise_for_failures(ran.results)


def _tell_failures(settings: Settings, months: Sequence[str], results: Sequence[NodeResult]) -> None:
    if failed := [result for result in results if result.failed and result.kind == "test"]:
        events.quality_failed(settings, months, failed, transform.failures(failed))


@task(task_run_name="tell what is published", **_RETRIES)
def tell_published(settings: Settings, months: Sequence[str], since: datetime) -> None:
    """An event for each month of which readers see another version."""
    with open_warehouse(settings) as warehouse:
        for published in published_since(warehouse, months, since):
            events.month_published(settings, published)
            get_run_logger().info(f"{published.month}: {published.rows:,} rows {published.state}")


@task(task_run_name="stage the earlier load of {month}", **_RETRIES)
def restage(month: str, settings: Settings) -> Landed:
    """The month's load before the staged one, staged again."""
    with open_warehouse(settings) as warehouse:
        return Landed(roll_back(warehouse, month), was_there=True)


@flow(name="yellow-taxi-rollback", flow_run_name="yellow-taxi {month} rollback")
def yellow_taxi_rollback(month: Month, target: Target | None = None) -> Report:
    """Publish the load that a month had before its newest one, through the same tests.

    Args:
        month: The month as YYYY-MM.
        target: duckdb or cratedb; left out, the setting TAXI_TARGET decides.
    """
    settings, month = _settings(target=target), parse_month(month)
    _describe_run(f"yellow-taxi {month} rollback", month, settings.target)
    with alone(settings, [month]):
        with _reported(settings, Ran(f"yellow-taxi {month} rollback", [month])) as ran:
            ran.landed[month] = restage(month, settings).was_there
            _publish(settings, ran)
        return publish_report(settings, ran)


@flow(name="yellow-taxi-backfill", flow_run_name="yellow-taxi {from_month} to {to_month}")
def yellow_taxi_backfill(
    from_month: Month,
    to_month: Month,
    source_template: Annotated[str, Field(pattern=r"\{month\}")] | None = None,
    parallel: ParallelMonths | None = None,
    target: Target | None = None,
    force: bool = False,
    max_reject_share: Share | None = None,
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
    settings = _settings(
        target=target, max_reject_share=max_reject_share, source_template=source_template, parallel_months=parallel
    )
    sources = {
        month: fetch.locate(None, month, settings.source_template)[0] for month in months_between(from_month, to_month)
    }
    _describe_run(f"yellow-taxi {from_month} to {to_month}", settings.target)
    ran = Ran(f"yellow-taxi {from_month} to {to_month}", list(sources))
    with alone(settings, list(sources)):
        with _reported(settings, ran):
            prepare(settings)
            months = _land_side_by_side(sources, settings, force)
            create_table_artifact(
                as_table(months), key="yellow-taxi-backfill", description=f"{from_month} to {to_month}"
            )
            ran.errors = {line.month: line.why for line in months if line.state == "failed"}
            ran.landed = {line.month: line.state == "already there" for line in months if line.month not in ran.errors}
            failure = _failure(settings, ran) if ran.landed else ""
            if failure or ran.errors:
                raise MonthsFailed(months, failure)
        publish_report(settings, ran)
    return months


def _failure(settings: Settings, ran: Ran) -> str:
    try:
        _publish(settings, ran)
    except TransformError:
        if not ran.results:
            raise
    return transform.failures(ran.results)


def _land_side_by_side(sources: dict[str, str], settings: Settings, force: bool) -> list[MonthLine]:
    _stop.clear()
    side_by_side: ThreadPoolTaskRunner[Landed] = ThreadPoolTaskRunner(max_workers=settings.parallel_months)
    with side_by_side as runner:
        futures = {
            month: runner.submit(land_month, {"source": source, "month": month, "settings": settings, "force": force})
            for month, source in sources.items()
        }
        try:
            return [of_landing(month, _outcome(future)) for month, future in futures.items()]
        except BaseException:  # a signal, which only this thread hears of
            _stop.set()
            raise


def _outcome(future: PrefectFuture[Landed]) -> Landed | Exception:
    try:
        return future.result()
    except Exception as error:  # a month that fails, for whatever reason, does not stop the others
        return error


@flow(name="yellow-taxi-quality", flow_run_name="yellow-taxi quality")
def yellow_taxi_quality(target: Target | None = None) -> list[NodeResult]:
    """Test everything that is published, and how long ago a month was last loaded; nothing is changed.

    Args:
        target: duckdb or cratedb; left out, the setting TAXI_TARGET decides.
    """
    settings = _settings(target=target)
    _describe_run(f"yellow-taxi quality of {settings.target}", settings.target)
    with alone(settings):
        with _reported(settings, Ran("yellow-taxi quality", [])) as ran:
            ran.results = dbt_test(settings)
            _tell_failures(settings, [], ran.results)
            transform.raise_for_failures(ran.results)
        publish_report(settings, ran)
    return ran.results


# What dbt ends its traceback of a signal with.
_SIGNALS = ("KeyboardInterrupt", "TerminationSignal")


class _OneSentence(logging.Filter):
    """An error of ours or of a dbt node is a sentence that says what is wrong: a traceback would only hide it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).rstrip().endswith(_SIGNALS):
            return False
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, TaxiError) or re.match(r"Node \S+ finished with status", str(error)):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_OneSentence())
