"""No two runs at one month: a global concurrency limit of Prefect's for each, made when it is first needed.

A run that finds its month taken waits in line. A slot is a lease that its run renews, so that Prefect frees it about a
minute after the run or its machine has died. That needs a server that stays: without `PREFECT_API_URL` Prefect starts
one for each command, which would remember the slot of a killed run and not its lease. There the warehouse alone keeps
two runs apart: it refuses a month that another run is at.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import httpx
from prefect import get_client, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.concurrency._asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from prefect_flows.settings import Settings

# The shortest lease that the API grants.
LEASE_SECONDS = 60
SECONDS_BETWEEN_TRIES = 5.0
SECONDS_BETWEEN_LOOKS = 15.0
# By then a lease that nobody renews is gone, so a slot that is still taken has none.
SECONDS_UNTIL_ABANDONED = 2.0 * LEASE_SECONDS
# The label of a flow run that tells which limits it holds, a comma between them.
HOLDS = "taxi-elt.holds"


def limits_of(settings: Settings, months: Sequence[str]) -> list[str]:
    """The limits that a run over these months needs: one a month, or the one of the DuckDB file, which one process at
    a time can open."""
    if settings.target == "duckdb":
        return ["yellow-taxi-duckdb"]
    return [f"yellow-taxi-{settings.target}-{month}" for month in months]


@contextmanager
def alone(settings: Settings, months: Sequence[str] = ()) -> Iterator[None]:
    """Wait until no other run is at any of the months, and keep others away from them meanwhile.

    All of the months are taken at once, or none: runs over several never wait for each other in a circle.
    """
    names = limits_of(settings, months)
    if not names or not get_current_settings().api.url:
        yield
        return
    with get_client(sync_client=True) as client, ExitStack() as slots:
        for name in names:
            _make(client, name)
        line = _Line(client, names)
        while not _take(slots, names):
            line.wait()
        _tell_what_is_held(client, names)
        try:
            yield
        finally:
            with suppress(httpx.HTTPError):
                _tell_what_is_held(client, [])


def _make(client: SyncPrefectClient, name: str) -> None:
    with suppress(ObjectAlreadyExists):
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))


def _take(slots: ExitStack, names: Sequence[str]) -> bool:
    try:
        slots.enter_context(
            concurrency(
                list(names),
                max_retries=0,
                lease_duration=LEASE_SECONDS,
                strict=True,
                # A server that is away for a minute must not end a load that goes well: the warehouse stands guard too.
                raise_on_lease_renewal_failure=False,
            )
        )
    except ConcurrencySlotAcquisitionError as error:
        answer = error.__cause__
        if isinstance(answer, httpx.HTTPStatusError) and answer.response.status_code == httpx.codes.LOCKED:
            return False
        raise
    return True


def _tell_what_is_held(client: SyncPrefectClient, names: Sequence[str]) -> None:
    if run := flow_run.id:
        client.update_flow_run_labels(run, {HOLDS: ",".join(names)})


class _Line:
    """Waiting in line: says once for whom, and frees a slot that belongs to nobody.

    A server that keeps its leases in memory, as Prefect's does unless it is told otherwise, forgets them when it is
    restarted; the slots are in its database, and would stay taken for ever.
    """

    def __init__(self, client: SyncPrefectClient, names: Sequence[str]) -> None:
        self._client, self._names = client, names
        self._looked = 0.0
        self._said = ""
        self._ownerless: dict[str, float] = {}

    def wait(self) -> None:
        # a run that has just taken a slot says so a moment later
        if self._ownerless or time.monotonic() - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._look()
            self._looked = time.monotonic()
        time.sleep(SECONDS_BETWEEN_TRIES)

    def _look(self) -> None:
        read = self._client.read_global_concurrency_limit_by_name
        taken = [name for name in self._names if read(name).active_slots]
        holders = {name: run for run in self._runs() for name in str(run.labels.get(HOLDS, "")).split(",")}
        told = [f"{name}, held by {_called(holders.get(name))}" for name in taken]
        if told and (line := f"Waiting for {'; '.join(told)}.") != self._said:
            get_run_logger().info(line)
            self._said = line
        now = time.monotonic()
        self._ownerless = {name: self._ownerless.get(name, now) for name in taken if name not in holders}
        for name, since in self._ownerless.items():
            if now - since >= SECONDS_UNTIL_ABANDONED:
                get_run_logger().warning(f"{name} has been held by no run that is under way for a while: it is freed.")
                self._client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=0))

    def _runs(self) -> list[FlowRun]:
        under_way = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
        return self._client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(like_="yellow-taxi")),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=under_way)),
        )


def _called(run: FlowRun | None) -> str:
    return f"the run {run.name!r} ({run.id})" if run else "a run that has just begun or has ended"
