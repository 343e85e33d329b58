"""What several secure rounds begin with: the keys and shares of a block, exchanged once.

In the first round of a block everybody asked gives keys and shares for all of its rounds; the other
rounds begin with the update. They follow from the replies to the first round's tasks alone, so that
a server that was restarted in the middle of a block finds the same members, keys and shares.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hansa.core.ids import MerchantId
from hansa.core.secure import collector
from hansa.core.secure.collector import Dealt, Prepared
from hansa.core.secure.messages import names_content
from hansa.core.secure.protocol import KEYS, SHARES, TRAIN, Setting
from hansa.core.secure.roster import Roster
from hansa.server.rounds.flower import to_records
from hansa.server.rounds.stages import SecureRun, Stages

_CLOCKS_DIFFER = dt.timedelta(minutes=5)
"""By so much a merchant's clock may be ahead; certificates begin so much earlier, too."""


@dataclass(frozen=True, kw_only=True)
class Sharers:
    """Who can take part in a later round of a block."""

    names: frozenset[MerchantId]
    threshold: int
    """How many of them must."""


class SecureBlocks:
    """The blocks of one run; remembers the one that was used last."""

    def __init__(self, around: SecureRun) -> None:
        self.around = around
        self._prepared: tuple[int, Prepared] | None = None

    def phases(self, number: int) -> tuple[str, ...]:
        """The stages of a round whose faults leave a merchant out; the first one makes its cohort.

        In the order in which a later stage's task says more about a merchant.
        """
        return (TRAIN,) if self._setting(number).at else (KEYS, TRAIN)

    def sharers(self, number: int) -> Sharers | None:
        """Whom a round can ask; None where it begins a block and can ask anybody."""
        setting = self._setting(number)
        if not setting.at:
            return None
        prepared = self._found(setting)
        return Sharers(names=frozenset(prepared.answers), threshold=prepared.roster.threshold)

    def dealt(self, number: int, asked: Sequence[MerchantId], stages: Stages) -> Dealt:
        """What a round's masked updates are made with, of those who are asked.

        Args:
            number: the round.
            asked: who takes part in it.
            stages: of this round; a block's first round exchanges keys and shares with it.

        Raises:
            QuorumNotMetError: they are fewer than the threshold.
        """
        setting = self._setting(number)
        if setting.at:
            return self._found(setting).dealt(setting.at, frozenset(asked))
        return self._prepare(setting, asked, stages).dealt(0)

    def _setting(self, number: int) -> Setting:
        return Setting.of(self.around.plan, self.around.run_id, number)

    def _found(self, setting: Setting) -> Prepared:
        """As the first round left it; after a restart, by asking for the replies again."""
        first = setting.turn(0)
        if self._prepared is not None and self._prepared[0] == first.round_number:
            return self._prepared[1]
        grid = self.around.grid
        grid.begin(first.round_number, KEYS)
        names = grid.names()
        asked = [names[node_id] for node_id in grid.asked_before()]
        return self._prepare(first, asked, Stages(self.around, first.round_number, {}))

    def _prepare(self, first: Setting, asked: Sequence[MerchantId], stages: Stages) -> Prepared:
        roster = self._roster(first, asked, stages)
        request = to_records(roster.to_content())
        answers = stages.gather(SHARES, dict.fromkeys(roster.positions, request))
        prepared, rejected = collector.prepare(roster, answers)
        stages.reject(rejected)
        self._prepared = (first.round_number, prepared)
        return prepared

    def _roster(self, first: Setting, asked: Sequence[MerchantId], stages: Stages) -> Roster:
        begin = to_records(names_content(asked=[]))
        answers = stages.gather(KEYS, dict.fromkeys(asked, begin))
        # The members judge each certificate by their clocks when they get the roster: at most two
        # deadlines after the keys came.
        lasting = 2 * dt.timedelta(seconds=self.around.plan.federation.deadline_s) + _CLOCKS_DIFFER
        trust = replace(self.around.trust, lasting=lasting)
        came = self._answered(first.round_number, answers)
        roster, rejected = collector.collect_keys(first, answers, trust, came)
        stages.reject(rejected)
        return roster

    def _answered(
        self, number: int, merchants: Iterable[MerchantId]
    ) -> dict[MerchantId, dt.datetime]:
        """When each merchant's keys came: it is written down, so a restart changes nothing."""
        rows = self.around.grid.rows(number, KEYS, merchants)
        return {
            MerchantId(row.merchant): dt.datetime.fromtimestamp(row.answered, dt.UTC)
            for row in rows
            if row.answered is not None
        }
