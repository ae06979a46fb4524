"""The concurrency limits of months against a real Prefect server: waiting in line, and slots that belong to nobody."""

import threading

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_flows import limits
from prefect_flows.limits import alone
from prefect_flows.settings import load_settings

pytestmark = pytest.mark.usefixtures("flow_settings")

CRATEDB = load_settings(target="cratedb")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS_BETWEEN_TRIES", 0.2)
    monkeypatch.setattr(limits, "SECONDS_BETWEEN_LOOKS", 0.5)


def limit(prefect_server: str, month: str) -> dict:
    return httpx.get(f"{prefect_server}/v2/concurrency_limits/yellow-taxi-cratedb-{month}", trust_env=False).json()


def test_a_slot_is_taken_meanwhile_and_free_afterwards_also_after_an_error(prefect_server: str) -> None:
    @flow(name="yellow-taxi-test")
    def hold() -> int:
        with alone(CRATEDB, ["2009-01", "2009-02"]):
            taken = sum(limit(prefect_server, month)["active_slots"] for month in ("2009-01", "2009-02"))
            raise ValueError(taken)

    with pytest.raises(ValueError, match="2"):
        hold()
    assert [limit(prefect_server, month)["active_slots"] for month in ("2009-01", "2009-02")] == [0, 0]


def test_runs_over_the_same_months_go_one_by_one(prefect_server: str) -> None:
    at_it: list[str] = []
    most = 0
    start = threading.Barrier(3)

    @flow(name="yellow-taxi-test")
    def hold(name: str, months: list[str]) -> None:
        nonlocal most
        start.wait(60)
        with alone(CRATEDB, months):
            at_it.append(name)
            most = max(most, len(at_it))
            threading.Event().wait(2)
            at_it.remove(name)

    orders = {"there": ["2009-03", "2009-04"], "back": ["2009-04", "2009-03"], "one": ["2009-03"]}
    threads = [threading.Thread(target=hold, args=order) for order in orders.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert (most, at_it, [thread.is_alive() for thread in threads]) == (1, [], [False] * 3)


def test_a_slot_that_a_restarted_server_has_no_lease_of_is_freed(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SECONDS_UNTIL_ABANDONED", 1.5)
    slot = {"name": "yellow-taxi-cratedb-2009-05", "limit": 1, "active_slots": 1}
    assert httpx.post(f"{prefect_server}/v2/concurrency_limits/", json=slot, trust_env=False).is_success

    @flow(name="yellow-taxi-test")
    def hold() -> int:
        with alone(CRATEDB, ["2009-05"]):
            return limit(prefect_server, "2009-05")["active_slots"]

    assert hold() == 1
    assert limit(prefect_server, "2009-05")["active_slots"] == 0


def test_without_a_server_that_stays_there_is_no_limit(prefect_server: str) -> None:
    with temporary_settings({PREFECT_API_URL: None}), alone(CRATEDB, ["2009-06"]):
        pass
    assert limit(prefect_server, "2009-06").get("detail") == "Concurrency Limit not found"
