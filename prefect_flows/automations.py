"""Two automations for the Prefect server: to tell of data that failed its tests, and to end runs that have died.

`taxi-elt automations` creates them, or brings those that are there up to date: they are told by their names.
"""

from dataclasses import dataclass
from datetime import timedelta

from prefect import get_client
from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, CallWebhook, ChangeFlowRunState, DoNothing, SendNotification
from prefect.exceptions import ObjectNotFound

from prefect_flows.errors import UsageError
from prefect_flows.events import QUALITY_FAILED

QUALITY = "taxi-elt: tell of failed tests"
ZOMBIES = "taxi-elt: end runs without a heartbeat"
# Three heartbeats of the runs that prefect.yaml and `taxi-elt serve` start.
WITHOUT_HEARTBEAT = timedelta(seconds=90)

_SUBJECT = "taxi-elt: {{ event.resource.name }} failed its tests"
_BODY = "{{ event.payload.said }}"


@dataclass(frozen=True)
class Made:
    """An automation, whether it was there before, and what it does when it is triggered."""

    name: str
    was_there: bool
    does: str


def make_automations(notify: str | None = None) -> list[Made]:
    """Create both automations, or update them.

    Args:
        notify: the block that tells people, as `<block type>/<name>`, for example `slack-webhook/ops`; a `webhook`
            block is called. Without it the one that is set stays, and without that nobody is told yet.

    Raises:
        UsageError: there is no such block.
    """
    with get_client(sync_client=True) as client:
        there = {name: client.read_automations_by_name(name) for name in (QUALITY, ZOMBIES)}
        kept = there[QUALITY][0].actions[0] if there[QUALITY] else DoNothing()
        action = _notification(client, notify) if notify else kept
        made = []
        for automation in (_tell_of_failed_tests(action), _end_zombies()):
            found = there[automation.name]
            if found:
                client.update_automation(found[0].id, automation)
            else:
                client.create_automation(automation)
            made.append(Made(automation.name, bool(found), automation.actions[0].describe_for_cli()))
        return made


def _notification(client: SyncPrefectClient, block: str) -> SendNotification | CallWebhook:
    kind, _, name = block.partition("/")
    try:
        document = client.read_block_document_by_name(name, kind).id
    except ObjectNotFound:
        raise UsageError(
            f"Prefect has no block {block!r}: create it, in the UI under Blocks, and name it as <block type>/<name>, "
            "for example slack-webhook/ops."
        ) from None
    if kind == "webhook":
        return CallWebhook(block_document_id=document, payload=f"{_SUBJECT}: {_BODY}")
    return SendNotification(block_document_id=document, subject=_SUBJECT, body=_BODY)


def _tell_of_failed_tests(action: ActionTypes) -> AutomationCore:
    return AutomationCore(
        name=QUALITY,
        description="Tells people which tests failed, as soon as a month or the daily quality run fails them.",
        enabled=True,
        trigger=EventTrigger(
            expect={QUALITY_FAILED}, posture=Posture.Reactive, threshold=1, within=timedelta(seconds=0)
        ),
        actions=[action],
    )


def _end_zombies() -> AutomationCore:
    """As Prefect's documentation has it ("Detect zombie flows"), for this project's flows."""
    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    return AutomationCore(
        name=ZOMBIES,
        description="Marks a run as crashed when it has sent no heartbeat for a while, as its machine has died.",
        enabled=True,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ended},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": ["yellow-taxi*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=WITHOUT_HEARTBEAT,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                force=False,
                state=StateType.CRASHED,
                message="The run sent no heartbeat any more: its machine or its process has died. Run it again, it "
                "goes on with what is missing.",
            )
        ],
    )
