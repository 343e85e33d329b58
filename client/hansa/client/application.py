"""Runs the Flower app on one task's content, in this process."""

import json
from collections.abc import Callable, Sequence

from flwr.app import Context, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp

from hansa.client.app import app
from hansa.client.flower_records import ApplicationError, to_content, to_records
from hansa.client.node.outgoing import ARRAYS, check_answer
from hansa.client.plans import PlanShelf
from hansa.client.site import Site
from hansa.client.workshop import make_ready
from hansa.core.content import Content
from hansa.core.plan import RunPlan

_NODE_ID = 2
_OPERATOR_NODE_ID = 1


class FlowerApplication:
    """A Flower ``ClientApp`` as the node calls it; the app sees what it would see under Flower."""

    def __init__(
        self,
        site: Site,
        client_app: ClientApp = app,
        prepare: Callable[[Site, RunPlan], None] = make_ready,
    ) -> None:
        self._site = site
        self._app = client_app
        self._prepare = prepare
        self._prepared: set[str] = set()

    def prepare(self, plan: RunPlan) -> None:
        """Keeps the plan, and makes the site ready for it: once for each plan."""
        if plan.digest not in self._prepared:
            PlanShelf(self._site.plans).keep(plan)
            self._prepare(self._site, plan)
            self._prepared.add(plan.digest)

    def __call__(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
        """The reply's content file; the records of all ``contents`` together are the message.

        Raises:
            ApplicationError: the app answered with an error.
            InvalidInputError: the content is malformed, or the app returned more than its phase
                lets out.
        """
        given = [Content.from_bytes(content) for content in contents]
        records = RecordDict()
        for content in given:
            records.update(to_records(content))
        # ``metadata`` is public in ``Message`` but missing in its typed overloads.
        message = Message(records, metadata=_metadata(phase))  # type: ignore[call-overload]
        reply = self._app(message=message, context=self._context(plan))
        if reply.has_error():
            raise ApplicationError(f"the app answered with error {reply.error.code}")
        answer = to_content(reply.content)
        model = next((one.arrays[ARRAYS] for one in given if ARRAYS in one.arrays), {})
        check_answer(plan, phase, model, answer)
        return answer.to_bytes()

    def _context(self, plan: RunPlan) -> Context:
        return Context(
            run_id=1,
            node_id=_NODE_ID,
            node_config={"site-folder": str(self._site.path)},
            state=RecordDict(),
            run_config={"plan": json.dumps(plan.model_dump(mode="json"))},
        )


def _metadata(phase: str) -> Metadata:
    return Metadata(
        run_id=1,
        message_id="task",
        src_node_id=_OPERATOR_NODE_ID,
        dst_node_id=_NODE_ID,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=86_400.0,
        message_type=phase,
    )
