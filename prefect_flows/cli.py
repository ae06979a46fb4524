"""`taxi-elt`: a thin front to the flows.

Exit codes: 0 what was asked for is published, 1 some of it failed and what was published before stays, 2 wrong use,
130 stopped with Ctrl-C, 143 with SIGTERM.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast

import typer

from prefect_flows.errors import TaxiError, UsageError
from prefect_flows.fetch import download_folder, fetch, is_url, locate
from prefect_flows.settings import PROJECT_ROOT, load_settings
from prefect_flows.tlc import ZONES_URL, months_between, parse_month

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None
)

SAMPLE_MONTH = "2021-01"

Target = Annotated[str | None, typer.Option(help="duckdb or cratedb [default: TAXI_TARGET, or duckdb].")]
Force = Annotated[bool, typer.Option("--force", help="Load a file even where it is already loaded.")]
MaxRejectShare = Annotated[
    float | None, typer.Option(help="Share of broken rows, 0 to 1, above which a file is refused.")
]


@app.callback()
def main() -> None:
    """Months of NYC yellow-taxi trips, from the published file to a tested table."""


@app.command()
def run(
    source: Annotated[
        str | None,
        typer.Option(help="URL or path of a month's file, Parquet or CSV, plain or gzip [default: the TLC's own]."),
    ] = None,
    month: Annotated[str | None, typer.Option(help="YYYY-MM; needed where the file's name does not tell it.")] = None,
    target: Target = None,
    force: Force = False,
    max_reject_share: MaxRejectShare = None,
) -> None:
    """Load one month and publish it as trip_data."""
    with _exit_code():
        settings = load_settings(target=target, max_reject_share=max_reject_share)
        source, month = locate(source, month, settings.source_template)
        _set_up_prefect()
        # Prefect takes seconds to import: wrong use is told before that.
        from prefect_flows.flows import yellow_taxi
        from prefect_flows.report.facts import Report
        from prefect_flows.report.outputs import to_text

        report = yellow_taxi(
            source=source,
            month=month,
            target=settings.target,
            force=force,
            max_reject_share=settings.max_reject_share,
        )
        typer.echo("\n" + to_text(cast(Report, report), settings))


@app.command()
def backfill(
    from_month: Annotated[str, typer.Option("--from", help="First month, YYYY-MM.")],
    to_month: Annotated[str, typer.Option("--to", help="Last month, YYYY-MM.")],
    source_template: Annotated[
        str | None,
        typer.Option(help="URL or path with {month} in it [default: TAXI_SOURCE_TEMPLATE, or the TLC's own]."),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(help="Months side by side [default: TAXI_PARALLEL_MONTHS, or 2].")
    ] = None,
    target: Target = None,
    force: Force = False,
    max_reject_share: MaxRejectShare = None,
) -> None:
    """Load a range of months side by side and publish them.

    A file on this machine that is already loaded, and a URL that a month was loaded from, are skipped. A month that
    fails does not stop the others, and is listed at the end.
    """
    with _exit_code():
        if source_template and not is_url(source_template):
            source_template = str(Path.cwd() / source_template)
        settings = load_settings(
            target=target, max_reject_share=max_reject_share, source_template=source_template, parallel_months=parallel
        )
        months_between(from_month, to_month)
        _set_up_prefect()
        from prefect_flows.flows import yellow_taxi_backfill
        from prefect_flows.report.months import MonthsFailed, as_text

        try:
            months = yellow_taxi_backfill(
                from_month=from_month,
                to_month=to_month,
                source_template=settings.source_template,
                parallel=settings.parallel_months,
                target=settings.target,
                force=force,
                max_reject_share=settings.max_reject_share,
            )
        except MonthsFailed as error:
            typer.echo("\n" + as_text(error.months))
            raise
        typer.echo("\n" + as_text(months))


@app.command()
def rollback(month: Annotated[str, typer.Option(help="YYYY-MM.")], target: Target = None) -> None:
    """Publish the load that a month had before its newest one."""
    with _exit_code():
        settings, month = load_settings(target=target), parse_month(month)
        _set_up_prefect()
        from prefect_flows.flows import yellow_taxi_rollback
        from prefect_flows.report.outputs import to_text

        typer.echo("\n" + to_text(yellow_taxi_rollback(month=month, target=settings.target), settings))


@app.command()
def status(target: Target = None) -> None:
    """Show every month: published, staged, refused or failed, its rows and rejects, when, and why."""
    with _exit_code():
        settings = load_settings(target=target)
        from prefect_flows.report.months import as_text, of_warehouse
        from prefect_flows.warehouses import open_warehouse

        with open_warehouse(settings) as warehouse:
            months = of_warehouse(warehouse)
        typer.echo(as_text(months) if months else f"No month is loaded yet in {settings.warehouse}.")


@app.command()
def serve() -> None:
    """Serve the deployments of prefect.yaml from this process, for a machine without a worker."""
    with _exit_code():
        _assert_there_is_a_server()
        from prefect_flows.deployments import serve_all

        serve_all()


@app.command()
def automations(
    notify: Annotated[
        str | None,
        typer.Option(help="Block that tells people of failed tests: <block type>/<name>, as in slack-webhook/ops."),
    ] = None,
) -> None:
    """Create the automations on the Prefect server, or bring them up to date."""
    with _exit_code():
        _assert_there_is_a_server()
        from prefect_flows.automations import make_automations

        for made in make_automations(notify):
            typer.echo(f"{made.name}: {'updated' if made.was_there else 'created'}; {made.does}")


def _assert_there_is_a_server() -> None:
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        raise UsageError(
            "There is no Prefect server: start one with `prefect server start --port 4201`, and set PREFECT_API_URL to "
            "http://127.0.0.1:4201/api."
        )


@app.command()
def report(
    month: Annotated[
        list[str] | None, typer.Option(help="YYYY-MM; may be given again [default: those that were tested last].")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    target: Target = None,
) -> None:
    """Write the quality report of months, from the warehouse and the tests' last results; dbt does not run."""
    with _exit_code():
        settings = load_settings(target=target)
        months = sorted({parse_month(given) for given in month or []})
        from prefect_flows.report.collect import collect
        from prefect_flows.report.outputs import write

        facts = collect(settings, months=months)
        files = write(facts, settings.report_dir)
        typer.echo(f"{facts.verdict.sentence}.\nReport: {files.html}")
        if open_page:
            typer.launch(str(files.html))


@app.command()
def zones(
    source: Annotated[str, typer.Option(help="URL or path of the lookup, as CSV.")] = ZONES_URL,
    target: Target = None,
) -> None:
    """Load the TLC's lookup of zones, against which the zones of trips are tested."""
    with _exit_code():
        settings = load_settings(target=target)
        from prefect_flows.warehouses import open_warehouse
        from prefect_flows.zones import read_zones

        with download_folder() as folder:
            lookup = read_zones(fetch(source, folder).path)
        with open_warehouse(settings) as warehouse:
            warehouse.replace_zones(lookup)
        typer.echo(f"{len(lookup)} zones in {settings.raw_schema}.taxi_zones of {settings.warehouse}")


@app.command()
def sample(
    folder: Annotated[Path, typer.Option(help="Where to write it.")] = PROJECT_ROOT / "sample",
    month: Annotated[str, typer.Option(help="YYYY-MM.")] = SAMPLE_MONTH,
    rows: Annotated[int, typer.Option(help="Number of data lines.", min=1_000)] = 100_000,
) -> None:
    """Write a month of generated trips in the TLC's own format."""
    with _exit_code():
        from prefect_flows.sample import write_sample

        facts = write_sample(folder / f"yellow_tripdata_{parse_month(month)}.csv", month, rows=rows)
        typer.echo(f"{facts.path}: {facts.rows:,} rows")


def _set_up_prefect() -> None:
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # Its temporary server makes a database first: 12 of the 20 s that it is given, on two idle cores.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


class _Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def _terminate(*_: object) -> None:
    raise _Terminated


@contextmanager
def _exit_code() -> Iterator[None]:
    # By default SIGTERM ends Python on the spot, and leaves behind the server that Prefect starts for a command.
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except TaxiError as error:
        typer.echo(f"taxi-elt: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as stop:
        typer.echo("taxi-elt: Stopped. What is published stays; the same command does what is missing.", err=True)
        sys.exit(128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT))
    finally:
        signal.signal(signal.SIGTERM, before)
