"""What dbt leaves in its target folder, read for the report: lineage, coverage, the tests' descriptions and SQL.

`manifest.json` is the project as parsed, whoever wrote it last. `run_results.json` is overwritten by every dbt command
(`docs generate` reports all tests as passed), so it counts only where it is of the run that is asked for.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from prefect_flows.report.facts import Coverage, Lineage, Node, NodeStatus, Test

RAN_TESTS = ("build", "test", "retry")
_PACKAGE = "taxi_elt"


@dataclass(frozen=True)
class TestNode:
    """A test as the project defines it; `reads` are the ids of the nodes that it looks at."""

    unique_id: str
    name: str
    model: str | None
    column: str | None
    severity: str
    gate: bool
    rule: str
    reads: list[str]


@dataclass(frozen=True)
class Outcome:
    """How a node came out in dbt's last run, as `run_results.json` has it."""

    unique_id: str
    status: str
    message: str
    sql: str
    seconds: float


class Manifest:
    """The project as dbt parsed it."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._nodes: dict[str, Any] = content["nodes"]
        self._sources: dict[str, Any] = content["sources"]

    def tests(self) -> dict[str, TestNode]:
        """The data tests, by name."""
        return {
            node["name"]: TestNode(
                unique_id=id_,
                name=node["name"],
                model=(node.get("attached_node") or "").rsplit(".", 1)[-1] or None,
                column=node.get("column_name"),
                severity=str(node["config"]["severity"]).lower(),
                gate="gate" in node["tags"],
                rule=" ".join((node.get("description") or "").split()),
                reads=node["depends_on"]["nodes"],
            )
            for id_, node in self._nodes.items()
            if node["resource_type"] == "test"
        }

    def lineage(self, outcomes: dict[str, str], tests: Iterable[Test]) -> Lineage:
        """Sources and models, marked with how they came out.

        Args:
            outcomes: dbt's status of each model that ran, by its unique id.
            tests: what the tests found.
        """
        known = self.tests()
        bad: dict[str, list[str]] = {}
        warned: set[str] = set()
        looked_at: set[str] = set()
        for test in tests:
            if test.name in known and (about := self._about(known[test.name])):
                looked_at.add(about)
                if test.status in ("fail", "error"):
                    bad.setdefault(about, []).append(test.name)
                elif test.status == "warn":
                    warned.add(about)
        models = [(id_, node) for id_, node in self._nodes.items() if node["resource_type"] == "model"]
        edges = [(parent, id_) for id_, node in models for parent in node["depends_on"]["nodes"]]
        read = {parent for parent, _ in edges}
        sources = [(id_, node) for id_, node in self._sources.items() if id_ in read or id_ in looked_at]

        def status(id_: str) -> NodeStatus:
            outcome = outcomes.get(id_, "")
            if id_ in bad or outcome == "error":
                return "bad"
            if outcome == "skipped":
                return "skipped"
            if id_ in warned:
                return "warning"
            return "good" if outcome == "success" or id_ in looked_at else "not run"

        nodes = [
            Node(
                id=id_,
                name=node["name"] if kind == "model" else f"{node['source_name']}.{node['name']}",
                kind="model" if kind == "model" else "source",
                description=" ".join((node.get("description") or "").split()),
                status=status(id_),
                failed_tests=sorted(bad.get(id_, [])),
            )
            for kind, found in (("source", sources), ("model", models))
            for id_, node in found
        ]
        return Lineage(nodes, edges)

    def _about(self, test: TestNode) -> str | None:
        """The node that a test is about: the one it is attached to, or else the one furthest down that it reads."""
        if test.model and (id_ := f"model.{_PACKAGE}.{test.model}") in self._nodes:
            return id_
        depths = self.depths()
        return max(test.reads, key=lambda id_: (depths.get(id_, -1), id_), default=None)

    def depths(self) -> dict[str, int]:
        """How many steps each source and model is away from the sources, by its longest way."""
        depths = dict.fromkeys(self._sources, 0)

        def depth(id_: str) -> int:
            if id_ not in depths:
                depths[id_] = 1 + max((depth(parent) for parent in self._parents(id_)), default=-1)
            return depths[id_]

        for id_, node in self._nodes.items():
            if node["resource_type"] == "model":
                depth(id_)
        return depths

    def _parents(self, id_: str) -> list[str]:
        parents: list[str] = self._nodes[id_]["depends_on"]["nodes"]
        return parents

    def coverage(self) -> Coverage:
        """Which documented columns of the models have a test of their own."""
        tested = {(test.model, test.column) for test in self.tests().values() if test.column}
        untested: dict[str, list[str]] = {}
        total = 0
        for node in self._nodes.values():
            if node["resource_type"] == "model":
                total += len(node["columns"])
                if without := [name for name in node["columns"] if (node["name"], name) not in tested]:
                    untested[node["name"]] = without
        return Coverage(total, total - sum(map(len, untested.values())), untested)


def read_manifest(folders: Iterable[Path]) -> Manifest | None:
    """The newest `manifest.json` of these folders, or None where there is none that can be read."""
    content = _newest(folders, "manifest.json")
    return Manifest(content) if content and {"nodes", "sources"} <= content.keys() else None


def read_outcomes(folders: Iterable[Path], run_ids: Collection[str]) -> dict[str, Outcome]:
    """What dbt's `run_results.json` tells about one of these runs, by unique id; nothing where it is of another
    command or another run."""
    for folder in folders:
        content = _newest([folder], "run_results.json")
        if (
            content
            and content.get("args", {}).get("which") in RAN_TESTS
            and content.get("metadata", {}).get("invocation_id") in run_ids
        ):
            return {
                result["unique_id"]: Outcome(
                    result["unique_id"],
                    result["status"],
                    " ".join((result.get("message") or "").split()),
                    (result.get("compiled_code") or "").strip(),
                    round(result["execution_time"], 3),
                )
                for result in content["results"]
            }
    return {}


def _newest(folders: Iterable[Path], name: str) -> dict[str, Any] | None:
    files = [file for folder in folders if (file := folder / name).is_file()]
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            content: dict[str, Any] = orjson.loads(file.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            continue  # another command is writing it now
        return content
    return None
