"""Random attacks on one real pack: edited bytes, dropped entries, swapped entries.

The attacker is the operator: it holds the key of plans, packs and checkpoints and signs again
whatever its key can sign. What stops it then are the merchants' signatures, and the checkpoints
that merchants and auditors have seen.
"""

import random

import pytest

from hansa.audit.verifier import verify
from hansa.core.archive import write_archive
from hansa.core.canonical import sha256_hex
from hansa.core.errors import AuditFailedError, HansaError, InvalidInputError
from hansa.core.evidence import INDEX, INDEX_DOMAIN, read_pack, write_pack
from hansa.core.privacy.entries import Entry
from hansa.core.signing import sign
from hansa.core.transparency.leaves import entry_leaf
from tests.fakes.audit_world import PLAN_KEY, AuditWorld, members_of, seen

EDITS, DROPS, SWAPS = 1000, 100, 100
SIGNED_AGAIN = ("plan.json", "run.json", "merchants.json", "ledgers/", "log/", "release/manifest")
"""What the operator's own key vouches for; TUF's online keys are another matter."""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("world"), stated=True)


@pytest.fixture(scope="module")
def pack(world) -> bytes:
    return write_pack(world.logged(), PLAN_KEY)


def is_refused(pack: bytes, world: AuditWorld) -> bool:
    """Whether an auditor who has seen one checkpoint elsewhere finds fault with the pack."""
    try:
        report = verify(read_pack(pack), witnessed=[seen(world.leaves())])
        report.require()
    except HansaError:
        return True
    return False


def signed_again(members: dict[str, bytes]) -> bytes:
    """A pack of these members under a fresh index of the operator's."""
    rest = {name: data for name, data in members.items() if name != INDEX}
    digests = {name: sha256_hex(data) for name, data in sorted(rest.items())}
    index = sign({"members": digests}, PLAN_KEY, domain=INDEX_DOMAIN)
    return write_archive({**rest, INDEX: index.to_bytes()})


def edited(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data))
    other = draw.randrange(255)
    byte = other + (other >= data[place])
    return data[:place] + bytes([byte]) + data[place + 1 :]


def test_the_pack_itself_passes(pack, world) -> None:
    assert not is_refused(pack, world)


def test_every_single_byte_edit_of_the_file_is_refused(pack) -> None:
    draw = random.Random(1)
    for _ in range(EDITS):
        with pytest.raises((AuditFailedError, InvalidInputError)):
            read_pack(edited(pack, draw))


def test_every_edit_that_is_signed_again_is_refused(pack, world) -> None:
    draw = random.Random(2)
    members = members_of(pack)
    names = [name for name in members if name.startswith(SIGNED_AGAIN)]
    for _ in range(60):
        name = draw.choice(names)
        forged = signed_again({**members, name: edited(members[name], draw)})
        assert is_refused(forged, world), name


def test_every_dropped_entry_is_refused(pack, world) -> None:
    draw = random.Random(3)
    lines = ledger_lines(pack)
    for _ in range(DROPS):
        name = draw.choice(sorted(lines))
        kept = list(lines[name])
        del kept[draw.randrange(len(kept))]
        assert is_refused(with_ledger(pack, name, kept), world), name


def test_every_swap_of_entries_is_refused(pack, world) -> None:
    draw = random.Random(4)
    lines = ledger_lines(pack)
    for _ in range(SWAPS):
        name = draw.choice(sorted(lines))
        kept = list(lines[name])
        one, other = draw.sample(range(len(kept)), 2)
        kept[one], kept[other] = kept[other], kept[one]
        assert is_refused(with_ledger(pack, name, kept), world), name


def test_a_cut_ledger_with_a_log_that_was_rewritten_to_fit_is_refused(pack, world) -> None:
    lines = ledger_lines(pack)["market"]
    last = Entry.parse(lines[-1], "it")
    gone = entry_leaf("market", last.position, last.hash)
    leaves = [body for body in world.leaves() if body != gone]
    members = members_of(with_ledger(pack, "market", lines[:-1]))
    log = world.log(leaves)
    members["log/leaves.jsonl"] = b"".join(body + b"\n" for body in log.leaves)
    members["log/checkpoint.txt"] = log.checkpoint
    report = verify(read_pack(signed_again(members)))
    names = [check.name for check in report.checks if not check.passed and not check.absent]
    assert "log goes on from what others saw" not in names
    assert is_refused(signed_again(members), world)


def ledger_lines(pack: bytes) -> dict[str, list[bytes]]:
    return {
        name.removeprefix("ledgers/").removesuffix(".jsonl"): data.split(b"\n")[:-1]
        for name, data in members_of(pack).items()
        if name.startswith("ledgers/")
    }


def with_ledger(pack: bytes, merchant: str, lines: list[bytes]) -> bytes:
    data = b"".join(line + b"\n" for line in lines)
    return signed_again({**members_of(pack), f"ledgers/{merchant}.jsonl": data})
