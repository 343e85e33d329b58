import zipfile
from pathlib import Path

import pytest

from hansa.core.canonical import sha256_hex
from hansa.core.errors import AuditFailedError, InvalidInputError
from hansa.core.evidence import INDEX_DOMAIN, read_pack, write_pack
from hansa.core.signing import sign, signing_key
from tests.fakes.audit_world import PLAN_KEY, AuditWorld, members_of, zip_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def pack(world: AuditWorld) -> bytes:
    return world.pack()


def test_a_pack_gives_back_the_evidence_and_always_has_the_same_bytes(
    world: AuditWorld, pack: bytes
) -> None:
    assert read_pack(pack) == world.evidence()
    assert write_pack(read_pack(pack), PLAN_KEY) == pack


def test_a_pack_without_a_release_is_one_too(world: AuditWorld) -> None:
    assert read_pack(world.pack(release=None)).release is None


def test_only_the_plans_key_can_sign_a_pack(world: AuditWorld) -> None:
    with pytest.raises(InvalidInputError, match="the key that signed its plan"):
        write_pack(world.evidence(), signing_key(b"s" * 32))


def test_a_flipped_byte_in_any_member_is_found_and_the_member_named(pack: bytes) -> None:
    for name, data in members_of(pack).items():
        where = pack.index(data) + len(data) // 2
        flipped = pack[:where] + bytes([pack[where] ^ 1]) + pack[where + 1 :]
        with pytest.raises(AuditFailedError, match=name.replace(".", r"\.")):
            read_pack(flipped)


def test_a_flipped_byte_under_a_new_checksum_is_found_and_the_member_named(pack: bytes) -> None:
    members = members_of(pack)
    for name, data in members.items():
        for where in (len(data) // 3, len(data) // 2, len(data) - 3):
            changed = data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]
            with pytest.raises(AuditFailedError, match=name.replace(".", r"\.")):
                read_pack(zip_of(list({**members, name: changed}.items())))


def test_a_missing_member_is_named(pack: bytes) -> None:
    members = members_of(pack)
    for name in members:
        rest = [item for item in members.items() if item[0] != name]
        with pytest.raises(AuditFailedError, match=name.replace(".", r"\.") + " is missing"):
            read_pack(zip_of(rest))


def test_an_index_of_another_key_than_the_plans_is_refused(pack: bytes) -> None:
    members = members_of(pack)
    digests = {name: sha256_hex(data) for name, data in members.items() if name != "index.json"}
    own = sign({"members": digests}, signing_key(b"s" * 32), domain=INDEX_DOMAIN)
    with pytest.raises(AuditFailedError, match=r"index\.json is signed by another key"):
        read_pack(zip_of(list({**members, "index.json": own.to_bytes()}.items())))


@pytest.mark.parametrize(
    "name",
    [
        "../plan.json",
        "/plan.json",
        "ledgers/../../x.jsonl",
        "ledgers/UPPER.jsonl",
        "ledgers/a/b.jsonl",
        "release/metadata/../root.json",
        "release\\manifest.json",
        "notes.txt",
        "ledgers/",
    ],
)
def test_a_member_that_does_not_belong_is_refused(pack: bytes, name: str) -> None:
    with pytest.raises(AuditFailedError, match="not a member"):
        read_pack(zip_of([*members_of(pack).items(), (name, b"{}")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_occurs_twice_is_refused(pack: bytes) -> None:
    with pytest.raises(AuditFailedError, match=r"plan\.json is in the audit pack twice"):
        read_pack(zip_of([*members_of(pack).items(), ("plan.json", b"{}")]))


def test_a_compressed_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zip_of([("plan.json", bytes(20_000_000))], zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    with pytest.raises(AuditFailedError, match="compressed"):
        read_pack(bomb)
    with pytest.raises(AuditFailedError, match="exceed"):
        read_pack(bomb, max_size_bytes=1_000_000)


def test_a_pack_beyond_the_limits_is_refused(pack: bytes) -> None:
    with pytest.raises(InvalidInputError, match="larger than"):
        read_pack(pack, max_size_bytes=len(pack) - 1)
    with pytest.raises(AuditFailedError, match="members"):
        read_pack(pack, max_members=3)


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip", bytes(100)])
def test_what_is_no_zip_is_bad_input(data: bytes) -> None:
    with pytest.raises(InvalidInputError, match="not an audit pack"):
        read_pack(data)


def test_a_cut_pack_is_bad_input(pack: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not an audit pack"):
        read_pack(pack[: len(pack) // 2])
