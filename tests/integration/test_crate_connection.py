"""How the flow meets a CrateDB: TLS on both ports, a password, and servers that cannot be used."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prefect_flows.errors import TaxiError, Unavailable, WarehouseError
from prefect_flows.flows import yellow_taxi
from prefect_flows.sample import write_sample
from prefect_flows.settings import load_settings
from prefect_flows.warehouses import open_warehouse
from tests.cratedb_server import CrateServer, LocalCrate

pytestmark = [pytest.mark.cratedb, pytest.mark.thorough]
PASSWORD = "canary/p@ss:word %41"


@pytest.fixture(scope="module")
def secured() -> Iterator[LocalCrate]:
    """A CrateDB that speaks TLS and wants a password."""
    if not os.environ.get("CRATEDB_HOME"):
        pytest.skip("a CrateDB with TLS is started from the installation that CRATEDB_HOME names")
    with LocalCrate(login=("taxi", PASSWORD), tls=True) as server:
        yield server


def use(monkeypatch: pytest.MonkeyPatch, server: CrateServer, **changes: str) -> None:
    for name, value in (server.environment("doc", "raw") | changes).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("flow_settings")
@pytest.mark.parametrize("by_url", [True, False], ids=["CRATEDB_URL", "single settings"])
def test_month_is_published_over_tls_with_a_password(
    secured: LocalCrate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by_url: bool, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, secured.server, **({} if by_url else {"CRATEDB_URL": ""}))
    sample = write_sample(tmp_path / "yellow_tripdata_2021-02.csv", "2021-02", rows=3_000)

    report = yellow_taxi(str(sample.path), force=True)

    assert report.months[0].rows.trips == sample.trips
    assert PASSWORD not in caplog.text
    assert PASSWORD not in repr(load_settings())


def refused(expected: type[TaxiError], sentence: str) -> None:
    with pytest.raises(expected, match=sentence) as failure, open_warehouse(load_settings()):
        pass
    assert PASSWORD not in str(failure.value)


def test_certificate_of_another_authority_is_refused(secured: LocalCrate, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, secured.server, CRATEDB_SSLROOTCERT=str(secured.wrong_ca_file))
    refused(WarehouseError, "certificate .* is not trusted: set CRATEDB_SSLROOTCERT")


def test_wrong_password_is_named(secured: LocalCrate, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, replace(secured.server, password="wrong"))
    refused(WarehouseError, "refuses the user or the password: correct CRATEDB_USER and CRATEDB_PASSWORD")


def test_server_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, CrateServer(host="127.0.0.1", http_port=9, pg_port=9))
    refused(Unavailable, "does not answer: start it")


def test_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, CrateServer(host="no-such-host.invalid", http_port=4200, pg_port=5432))
    refused(Unavailable, "no-such-host.invalid:4200 does not answer")
