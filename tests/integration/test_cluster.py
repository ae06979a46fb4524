"""Publication on a CrateDB of several nodes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_flows.settings import load_settings
from prefect_flows.transform import failures
from tests.cratedb_server import LocalCluster
from tests.integration.test_publishing import FIRST, SECOND, Project, ok

pytestmark = [pytest.mark.cratedb, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    if not os.environ.get("CRATEDB_HOME"):
        pytest.skip("CRATEDB_HOME is not set: there is no CrateDB installation to start servers from.")
    with LocalCluster(heap="512m") as cluster:
        yield cluster


@pytest.fixture
def project(cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    settings = cluster.server.environment("doc", "raw")
    settings |= {"CRATEDB_REPLICAS": "0", "DBT_TARGET_PATH": str(tmp_path / "target")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return Project(load_settings(), tmp_path / "project")


def test_nothing_is_published_while_shards_start_or_move(cluster: LocalCluster, project: Project) -> None:
    """A failure means that readers see both versions of a month, or parts of one, as the copies of its shard are
    refreshed one by one."""
    sql = cluster.server.sql
    facts = {FIRST: project.put(FIRST)}
    ok(project.build())
    before = project.builds

    sql("SET GLOBAL TRANSIENT \"indices.recovery.max_bytes_per_sec\" = '2kb'")
    sql("ALTER TABLE doc.trip_data SET (number_of_replicas = 1)")
    facts[SECOND] = project.put(SECOND)
    sentence = failures(project.build())
    assert "Shards of" in sentence and "are starting or moving" in sentence, sentence
    assert project.builds == before

    sql("SET GLOBAL TRANSIENT \"indices.recovery.max_bytes_per_sec\" = '100mb'")
    cluster.wait_until_green(300)
    ok(project.build())
    assert project.trips == {month: fact.trips for month, fact in facts.items()}
