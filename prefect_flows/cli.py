"""`taxi-elt`: a thin front to the flows.

Exit codes: 0 the month is published, 1 it failed and what was published before stays, 2 the command was used wrongly.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from prefect_flows.errors import TaxiError
from prefect_flows.fetch import month_for
from prefect_flows.settings import PROJECT_ROOT, load_settings
from prefect_flows.tlc import parse_month

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None
)

SAMPLE_MONTH = "2021-01"


@app.callback()
def main() -> None:
    """Months of NYC yellow-taxi trips, from the published file to a tested table."""


@app.command()
def run(
    source: Annotated[str, typer.Option(help="URL or path of a month's CSV file, plain or gzip.")],
    month: Annotated[str | None, typer.Option(help="YYYY-MM; needed where the file's name does not tell it.")] = None,
    target: Annotated[str | None, typer.Option(help="duckdb or cratedb [default: TAXI_TARGET, or duckdb].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Load the file even where it is already loaded.")] = False,
    max_reject_share: Annotated[
        float | None, typer.Option(help="Share of broken lines, 0 to 1, above which the file is refused.")
    ] = None,
) -> None:
    """Load one month and publish it as trip_data."""
    with _exit_code():
        settings = load_settings(target=target, max_reject_share=max_reject_share)
        month = month_for(source, month)
        os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        # Prefect takes seconds to import: wrong use is told before that.
        from prefect_flows.flows import yellow_taxi
        from prefect_flows.report.summary import as_text

        summary = yellow_taxi(
            source=source,
            month=month,
            target=settings.target,
            force=force,
            max_reject_share=settings.max_reject_share,
        )
        typer.echo("\n" + as_text(summary))


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


@contextmanager
def _exit_code() -> Iterator[None]:
    try:
        yield
    except TaxiError as error:
        typer.echo(f"taxi-elt: {error}", err=True)
        sys.exit(error.exit_code)
