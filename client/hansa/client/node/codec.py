"""The plan's codec at the merchant's end: between the wire and the app, and the app and the outbox.

What it sees of the app's work is noised already. A task's reply is sealed once: a task that comes
again is answered from the outbox, with the same bytes.
"""

from collections.abc import Sequence

from hansa.client.entropy import SystemEntropy
from hansa.client.node.residuals import Residuals
from hansa.client.site import Site
from hansa.compression.content_codec import ARRAYS, ContentCodec
from hansa.core.content import Content
from hansa.core.ids import RunId, TaskId
from hansa.core.plan import RunPlan
from hansa.core.privacy.ledger import Ledger
from hansa.core.privacy.mechanism import Entropy

MAX_MODEL_BYTES = 1 << 30
"""A model whose decoded arrays are larger is refused before any of them is unpacked. Beside
what was received it is in memory twice for a while: its arrays, and the file that the app takes."""


class TaskCodec:
    """Lets an app work on plain arrays, whatever they travel as."""

    def __init__(self, residuals: Residuals, entropy: Entropy) -> None:
        self._residuals = residuals
        self._entropy = entropy

    @classmethod
    def of(cls, site: Site, ledger: Ledger) -> "TaskCodec":
        """The codec of a site, with the system's randomness."""
        return cls(Residuals(site.residuals, ledger.released), SystemEntropy())

    def open(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> list[bytes]:
        """A task's content files as the app takes them; no shopper's data are needed for it.

        Raises:
            InvalidInputError: the model in them cannot be read.
        """
        codec = ContentCodec.of(plan.federation, phase)
        if not codec.codes_down:
            return list(contents)
        received = Content.from_bytes(contents[0])
        opened = codec.decode_down(received, max_bytes=MAX_MODEL_BYTES)
        return [opened.to_bytes(), *contents[1:]]

    def seal(
        self,
        plan: RunPlan,
        phase: str,
        *,
        run: RunId,
        task: TaskId,
        opened: Sequence[bytes],
        reply: bytes,
    ) -> bytes:
        """The app's noised reply as it travels; what was rounded off is kept for the next one.

        Raises:
            InvalidInputError: the reply's arrays are not those of the model, or not finite.
        """
        codec = ContentCodec.of(plan.federation, phase)
        if not codec.codes_up:
            return reply
        base = Content.from_bytes(opened[0]).arrays.get(ARRAYS, {})
        sent, left = codec.encode_up(
            Content.from_bytes(reply),
            base,
            residual=self._residuals.carried(run),
            entropy=self._entropy,
        )
        data = sent.to_bytes()
        if left:
            self._residuals.keep(run, task, data, if_sent=left)
        return data
