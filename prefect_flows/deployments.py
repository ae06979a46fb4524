"""The deployments of `prefect.yaml`, served from this process: for a machine without a work pool and a worker."""

import os
from typing import Any

import yaml
from prefect import serve
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Schedule
from prefect.types.entrypoint import EntrypointType

from prefect_flows.settings import PROJECT_ROOT


def serve_all() -> None:
    """Create or update the deployments, and run what they are asked to until a signal ends it."""
    defined = yaml.safe_load((PROJECT_ROOT / "prefect.yaml").read_text())["deployments"]
    # What a worker gives its runs as variables, a served run inherits.
    for deployment in defined:
        os.environ.update(deployment["work_pool"]["job_variables"]["env"])
    serve(*(as_served(deployment) for deployment in defined))


def as_served(defined: dict[str, Any]) -> RunnerDeployment:
    """A deployment of `prefect.yaml` as one that needs no work pool."""
    deployment = load_flow_from_entrypoint(defined["entrypoint"]).to_deployment(
        defined["name"],
        description=defined["description"].strip(),
        tags=defined["tags"],
        schedules=[Schedule(**schedule) for schedule in defined.get("schedules", [])],
        entrypoint_type=EntrypointType.MODULE_PATH,
        paused=False,  # as it was left by the process that served it before
    )
    assert isinstance(deployment, RunnerDeployment)  # noqa: S101
    return deployment
