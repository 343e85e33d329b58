"""What all our Grids share, and what the loop over rounds needs of one beyond Flower's calls."""

from abc import abstractmethod
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from hansa.core.ids import MerchantId
from hansa.server.state.tables import TaskRow


@dataclass(frozen=True, kw_only=True)
class FlowerRun:
    """The part of Flower's ``Run`` that anything reads."""

    run_id: int


class OurGrid(Grid):
    """What Flower's older interface asks of a Grid, the same for all of ours."""

    def set_run(self, run: Any) -> None:
        """The run is fixed at construction; Flower's own run object is not used."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message as Flower's older interface makes them."""
        return Message(
            content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl
        )


class RoundGrid(OurGrid):
    """A Grid that knows rounds: the same loop runs on the plane and in a simulation."""

    @abstractmethod
    def begin(self, round_number: int, phase: str) -> None:
        """Names what the next messages belong to, and notes who is there to be reached."""

    @abstractmethod
    def reach(self, node_ids: Iterable[int]) -> None:
        """Lets the next messages reach exactly these merchants."""

    @abstractmethod
    def exclude(self, merchants: Iterable[MerchantId]) -> None:
        """Asks these merchants no more in this run."""

    @abstractmethod
    def names(self) -> dict[int, MerchantId]:
        """Node ids and names of all merchants."""

    @abstractmethod
    def asked_before(self) -> list[int]:
        """Node ids of the merchants that this round asked before the server broke off."""

    @abstractmethod
    def replies(
        self, messages: Iterable[Message], *, timeout_s: float
    ) -> Generator[Message, None, None]:
        """The replies as they come, each message answered or timed out; close it to end early."""

    @abstractmethod
    def rows(self, round_number: int, phase: str, merchants: Iterable[MerchantId]) -> list[TaskRow]:
        """The tasks of a round as they stand."""
