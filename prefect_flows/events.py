"""What a run tells Prefect has happened, for automations to act on; docs/operations.md lists the events.

Each is about one month, `taxi-elt.month.2021-01`, or about all the data, `taxi-elt.data`. Prefect adds the run, its
flow and its deployment.
"""

from collections.abc import Sequence

from prefect.events import emit_event

from prefect_flows.land import Landed
from prefect_flows.report.months import Published
from prefect_flows.settings import Settings
from prefect_flows.transform import NodeResult

LOAD_COMPLETED = "taxi.load.completed"
MONTH_PUBLISHED = "taxi.month.published"
QUALITY_FAILED = "taxi.quality.failed"


def load_completed(settings: Settings, landed: Landed) -> None:
    """A month's file has landed; it is not published yet."""
    load = landed.load
    emit_event(
        LOAD_COMPLETED,
        _month(load.file_month),
        payload={
            "month": load.file_month,
            "target": settings.target,
            "load_id": load.load_id,
            "source": load.source_url,
            "rows_read": load.rows_read,
            "rows_landed": load.rows_landed,
            "rows_rejected": load.rows_rejected,
        },
    )


def month_published(settings: Settings, published: Published) -> None:
    """Readers see another version of a month."""
    emit_event(
        MONTH_PUBLISHED,
        _month(published.month),
        payload={
            "month": published.month,
            "target": settings.target,
            "load_id": published.load_id,
            "build_id": published.build_id,
            "rows": published.rows,
            "state": published.state,
        },
    )


def quality_failed(settings: Settings, months: Sequence[str], results: Sequence[NodeResult], said: str) -> None:
    """Tests of error severity failed; `gate` says of each whether that kept the month from its readers."""
    emit_event(
        QUALITY_FAILED,
        _month(months[0]) if len(months) == 1 else _DATA,
        payload={
            "months": list(months),
            "target": settings.target,
            "said": said,
            "tests": [
                {
                    "test": result.name,
                    "model": result.model,
                    "column": result.column,
                    "failing_rows": result.failures,
                    "gate": result.gate,
                }
                for result in results
            ],
        },
    )


_DATA = {"prefect.resource.id": "taxi-elt.data", "prefect.resource.name": "yellow-taxi data"}


def _month(month: str) -> dict[str, str]:
    return {"prefect.resource.id": f"taxi-elt.month.{month}", "prefect.resource.name": f"yellow-taxi {month}"}
