"""What is read of dbt's target folder, and what must not be."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from prefect_flows.report.artifacts import Manifest, read_manifest, read_outcomes
from tests.unit.report import a_test


def node(kind: str, name: str, reads: list[str], **more: Any) -> dict[str, Any]:
    return {
        "resource_type": kind, "name": name, "description": "  What\n it is. ", "columns": {}, "tags": [],
        "depends_on": {"nodes": reads}, "config": {"severity": "WARN"},
    } | more  # fmt: skip


CONTENT: dict[str, Any] = {
    "sources": {"source.taxi_elt.raw.trips": {"source_name": "raw", "name": "trips", "description": ""}},
    "nodes": {
        "model.taxi_elt.stg": node("model", "stg", ["source.taxi_elt.raw.trips"], columns={"a": {}, "b": {}}),
        "model.taxi_elt.mart": node("model", "mart", ["model.taxi_elt.stg"], columns={"c": {}}),
        "test.taxi_elt.a": node(
            "test", "a_is_given", ["model.taxi_elt.stg"], attached_node="model.taxi_elt.stg", column_name="a",
            tags=["gate"],
        ),
        "test.taxi_elt.s": node("test", "adds_up", ["source.taxi_elt.raw.trips", "model.taxi_elt.mart"]),
    },
}  # fmt: skip
MANIFEST = Manifest(CONTENT)


def test_tests_are_told_by_their_names() -> None:
    tests = MANIFEST.tests()
    assert set(tests) == {"a_is_given", "adds_up"}
    given = tests["a_is_given"]
    assert (given.model, given.column, given.severity, given.gate, given.rule) == (
        "stg",
        "a",
        "warn",
        True,
        "What it is.",
    )
    assert (tests["adds_up"].model, tests["adds_up"].gate) == (None, False)


def test_coverage_names_the_columns_without_a_test() -> None:
    coverage = MANIFEST.coverage()
    assert (coverage.columns, coverage.tested, coverage.untested) == (3, 1, {"stg": ["b"], "mart": ["c"]})


def test_lineage_marks_what_failed_and_what_was_skipped() -> None:
    tests = [a_test("fail", "a_is_given"), a_test("warn", "adds_up"), a_test("fail", "of_another_project")]
    lineage = MANIFEST.lineage({"model.taxi_elt.stg": "success"}, tests)
    status = {found.name: (found.status, found.failed_tests) for found in lineage.nodes}
    assert status == {"raw.trips": ("not run", []), "stg": ("bad", ["a_is_given"]), "mart": ("warning", [])}
    assert ("source.taxi_elt.raw.trips", "model.taxi_elt.stg") in lineage.edges

    skipped = MANIFEST.lineage({"model.taxi_elt.mart": "skipped", "model.taxi_elt.stg": "error"}, [])
    assert {found.name: found.status for found in skipped.nodes} == {
        "stg": "bad",
        "mart": "skipped",
        "raw.trips": "not run",
    }


def test_newest_manifest_counts_and_a_broken_one_does_not(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    (old / "manifest.json").write_text(json.dumps(CONTENT))
    (new / "manifest.json").write_text("{half")
    os.utime(old / "manifest.json", (1, 1))
    found = read_manifest([new, old])
    assert found and len(found.tests()) == 2
    assert read_manifest([new]) is None
    assert read_manifest([tmp_path / "nowhere"]) is None


def results(which: str, run_id: str) -> dict[str, Any]:
    result = {
        "unique_id": "test.x",
        "status": "fail",
        "message": "Got\n 3",
        "compiled_code": " select 1 ",
        "execution_time": 1.23456,
    }
    return {"args": {"which": which}, "metadata": {"invocation_id": run_id}, "results": [result]}  # fmt: skip


@pytest.mark.parametrize(
    ("which", "run_id", "counts"),
    [("build", "mine", True), ("test", "mine", True), ("generate", "mine", False), ("build", "other", False)],
)
def test_run_results_count_only_for_the_run_that_is_asked_for(
    tmp_path: Path, which: str, run_id: str, counts: bool
) -> None:
    (tmp_path / "run_results.json").write_text(json.dumps(results(which, run_id)))
    found = read_outcomes([tmp_path / "nowhere", tmp_path], ["mine"])
    assert bool(found) == counts
    if counts:
        outcome = found["test.x"]
        assert (outcome.status, outcome.message, outcome.sql, outcome.seconds) == ("fail", "Got 3", "select 1", 1.235)
