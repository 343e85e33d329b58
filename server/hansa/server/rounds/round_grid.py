"""What the loop over rounds needs of a Grid beyond Flower's own calls."""

from abc import abstractmethod
from collections.abc import Generator, Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from hansa.core.ids import MerchantId
from hansa.server.state.tables import TaskRow


class RoundGrid(Grid):
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
