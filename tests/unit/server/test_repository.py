"""The publisher: keys, ceremony, publication, crash order, rollback."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from hansa.client.updates.updater import Updater
from hansa.core.canonical import canonical_json
from hansa.core.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UntrustedReleaseError,
)
from hansa.core.ids import ReleaseVersion
from hansa.core.release import ReleaseManifest, check_channel, epsilon_text
from hansa.server.releases import writer
from hansa.server.releases.ceremony import create_repository
from hansa.server.releases.files import check_metadata_name
from hansa.server.releases.keys import (
    create_channel_key,
    create_keys,
    load_offline_keys,
    load_online_keys,
)
from hansa.server.releases.repository import ReleaseRepository
from hansa.server.releases.writer import sole_writer
from tests.fakes.release_source import FakeReleaseSource
from tests.fakes.release_world import CHANNEL, TODAY, ReleaseWorld, manifest_of

METADATA_WRITES = 3
"""Channel, snapshot, timestamp."""


class PowerCutError(Exception):
    pass


@pytest.fixture
def world(tmp_path: Path) -> ReleaseWorld:
    return ReleaseWorld(tmp_path)


def site(world: ReleaseWorld, name: str = "site") -> Updater:
    return Updater(world.folder / name, FakeReleaseSource(world.files), world.root)


def installed_version(updater: Updater) -> int | None:
    manifest = updater.current_manifest()
    return None if manifest is None else manifest.version


def test_private_keys_are_readable_by_their_owner_only(world: ReleaseWorld) -> None:
    keys = [*world.online.glob("*.pem"), *world.offline.glob("*.pem")]
    assert len(keys) == 3 + 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (world.online, world.offline)} == {0o700}


def test_root_and_targets_keys_lie_apart_with_the_advice_to_move_them(world: ReleaseWorld) -> None:
    assert {path.name for path in world.offline.iterdir()} == {
        "README.txt", "root-1.pem", "root-2.pem", "root-3.pem", "targets.pem",
    }  # fmt: skip
    assert "Move this folder" in (world.offline / "README.txt").read_text()
    assert {path.name for path in world.online.iterdir()} == {
        "snapshot.pem", "timestamp.pem", "channel-stable.pem",
    }  # fmt: skip


def test_existing_keys_are_never_overwritten(world: ReleaseWorld) -> None:
    before = (world.offline / "root-1.pem").read_bytes()
    with pytest.raises(ConflictError, match="already holds keys"):
        create_keys(world.folder / "new", world.offline, ["stable"])
    assert (world.offline / "root-1.pem").read_bytes() == before


def test_a_file_that_is_no_key_is_named(world: ReleaseWorld) -> None:
    (world.online / "snapshot.pem").write_text("nonsense")
    with pytest.raises(InvalidInputError, match=r"snapshot\.pem"):
        load_online_keys(world.online)


def test_the_root_needs_two_of_three_keys_and_consistent_snapshots(world: ReleaseWorld) -> None:
    root = world.files.newest_root().signed
    assert (len(root.roles["root"].keyids), root.roles["root"].threshold) == (3, 2)
    assert root.consistent_snapshot is True


def test_the_server_publishes_without_the_offline_keys(world: ReleaseWorld) -> None:
    world.offline.rename(world.folder / "in-the-safe")
    world.release(1)
    assert world.repository.versions(CHANNEL) == [1]


def test_a_published_release_states_its_facts_in_the_signed_custom_field(
    world: ReleaseWorld,
) -> None:
    manifest = world.release(1)
    targets = world.files.role(CHANNEL).signed.targets
    assert set(targets) == {
        "stable/manifest.json", "stable/1/manifest.json",
        "stable/1/model.onnx", "stable/1/privacy.json", "stable/1/tokenizer.json",
    }  # fmt: skip
    base = {"name": "minilm", "digest": "b" * 64}
    facts = {"version": 1, "channel": "stable", "base": base}
    assert all(target.custom == facts for target in targets.values())
    assert world.repository.newest(CHANNEL) == manifest


def test_target_files_are_stored_once_under_their_digest(world: ReleaseWorld) -> None:
    first, second = world.release(1), world.release(2)
    assert world.blob(first, "tokenizer.json") == world.blob(second, "tokenizer.json")
    assert world.blob(first, "tokenizer.json").read_bytes() == b'{"tokens": []}'


@pytest.mark.parametrize("survived", range(METADATA_WRITES))
def test_a_crash_before_any_metadata_write_leaves_the_old_release_installable(
    world: ReleaseWorld, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    world.release(1)
    crash_after(monkeypatch, survived)
    with pytest.raises(PowerCutError):
        world.release(2)
    monkeypatch.undo()

    updater = site(world)
    updater.refresh_and_fetch(CHANNEL)
    assert installed_version(updater) == 1
    world.repository.refresh_timestamp(TODAY)
    world.release(2)
    updater.refresh_and_fetch(CHANNEL)
    assert installed_version(updater) == 2


def test_no_signed_numbered_file_is_ever_replaced(
    world: ReleaseWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.release(1)
    crash_after(monkeypatch, METADATA_WRITES - 1)
    with pytest.raises(PowerCutError):
        world.release(2)
    monkeypatch.undo()
    before = numbered_files(world)
    world.release(2)
    after = numbered_files(world)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2


def test_publishing_the_newest_manifest_again_changes_nothing(world: ReleaseWorld) -> None:
    manifest = world.release(1)
    before = world.files.metadata("timestamp.json")
    assert world.release(1) == manifest
    assert world.files.metadata("timestamp.json") == before


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_that_does_not_grow_is_refused(world: ReleaseWorld, version: int) -> None:
    world.release(1)
    world.release(2)
    with pytest.raises(ConflictError, match="publish 3 or later"):
        world.release(version, {"model.onnx": b"other"})


def test_an_artifact_that_differs_from_its_manifest_is_not_released(world: ReleaseWorld) -> None:
    manifest = manifest_of({"model.onnx": b"as tested"}, 1)
    folder = world.artifact({"model.onnx": b"as changed"}, 1)
    with pytest.raises(UntrustedReleaseError, match=r"model\.onnx"):
        world.repository.publish(folder, manifest, TODAY)
    assert world.repository.newest(CHANNEL) is None


def test_a_missing_artifact_file_is_named(world: ReleaseWorld) -> None:
    manifest = manifest_of({"model.onnx": b"x"}, 1)
    with pytest.raises(NotFoundError, match=r"model\.onnx"):
        world.repository.publish(world.artifact({}, 1), manifest, TODAY)


def test_an_unknown_channel_is_refused(world: ReleaseWorld) -> None:
    manifest = manifest_of({"model.onnx": b"x"}, 1, channel="nightly")
    with pytest.raises(NotFoundError, match="nightly"):
        world.repository.publish(world.artifact({"model.onnx": b"x"}, 1), manifest, TODAY)


def test_a_rollback_is_a_newer_version_of_the_older_files(world: ReleaseWorld) -> None:
    first = world.release(1)
    world.release(2)
    assert world.repository.roll_back(CHANNEL, ReleaseVersion(1), TODAY) == 3
    newest = world.repository.newest(CHANNEL)
    assert newest is not None
    assert (newest.version, newest.restores, newest.files) == (3, 1, first.files)
    assert newest.epsilon == first.epsilon


def test_a_rollback_to_the_newest_or_to_an_unlisted_release_is_refused(
    world: ReleaseWorld,
) -> None:
    world.release(1)
    with pytest.raises(ConflictError, match="already is the newest"):
        world.repository.roll_back(CHANNEL, ReleaseVersion(1), TODAY)
    with pytest.raises(NotFoundError, match="no release 7"):
        world.repository.roll_back(CHANNEL, ReleaseVersion(7), TODAY)


def test_only_the_newest_fifty_releases_stay_listed(world: ReleaseWorld) -> None:
    for version in range(1, 53):
        world.release(version, {"model.onnx": b"%d" % version})
    assert world.repository.versions(CHANNEL) == list(range(3, 53))


def test_refreshing_renews_the_timestamp_alone_while_the_rest_is_young(
    world: ReleaseWorld,
) -> None:
    world.release(1)
    before = numbered_files(world)
    later = TODAY + timedelta(hours=12)
    assert world.repository.refresh_timestamp(later) == later + timedelta(days=1)
    assert numbered_files(world) == before


def test_refreshing_renews_snapshot_and_channels_before_they_expire(world: ReleaseWorld) -> None:
    world.release(1)
    later = TODAY + timedelta(days=300)
    world.repository.refresh_timestamp(later)
    expiries = world.repository.expiries()
    assert expiries["stable"] == expiries["snapshot"] == later + timedelta(days=365)
    assert expiries["root"] == expiries["targets"] == TODAY + timedelta(days=730)
    assert world.repository.versions(CHANNEL) == [1]


def test_a_renewed_root_needs_two_of_the_three_keys(world: ReleaseWorld) -> None:
    (world.offline / "root-1.pem").unlink()
    world.renew()
    assert world.files.newest("root") == 2
    (world.offline / "root-2.pem").unlink()
    with pytest.raises(UntrustedReleaseError, match="2 of the repository's 3 root keys"):
        world.renew()
    assert world.files.newest("root") == 2


def test_the_ceremony_adds_a_channel_and_keeps_the_releases(world: ReleaseWorld) -> None:
    world.release(1)
    create_channel_key(world.online, "canary")
    world.renew()
    assert world.repository.versions(CHANNEL) == [1]
    assert world.repository.newest("canary") is None


def test_the_ceremony_refuses_to_lose_a_channel(world: ReleaseWorld) -> None:
    (world.online / "channel-stable.pem").unlink()
    with pytest.raises(ConflictError, match="stable"):
        world.renew()


def test_a_repository_is_created_once(world: ReleaseWorld) -> None:
    with pytest.raises(ConflictError, match="already is a release repository"):
        create_repository(
            world.repository_folder,
            online=load_online_keys(world.online),
            offline=load_offline_keys(world.offline),
            now=TODAY,
        )


def test_two_processes_do_not_publish_at_once(world: ReleaseWorld) -> None:
    hasty = ReleaseRepository(
        world.repository_folder, load_online_keys(world.online), patience_s=0.0
    )
    with (
        sole_writer(world.repository_folder),
        pytest.raises(ConflictError, match="another process"),
    ):
        hasty.refresh_timestamp(TODAY)


def test_servers_that_write_at_the_same_moment_wait_for_each_other(world: ReleaseWorld) -> None:
    """Each has a publisher of its own; no number is given twice, no file is lost or torn."""
    world.release(1)
    before = world.files.timestamp().signed.version
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(world.repository.refresh_timestamp, TODAY) for _ in range(20)] + [
            pool.submit(world.release, 2)
        ]:
            done.result()
    assert world.files.timestamp().signed.version == before + 21
    assert world.repository.versions(CHANNEL) == [1, 2]


def test_the_release_of_a_run_is_found_also_behind_newer_ones(world: ReleaseWorld) -> None:
    """Two servers release two runs at the same time; the one that crashed looks for its own."""
    files = {"model.onnx": b"model"}
    for version, run in enumerate(("first", "second"), start=1):
        manifest = manifest_of(files, version, run=run)
        world.repository.publish(world.artifact(files, version), manifest, TODAY)
    found = [world.repository.made_by(CHANNEL, run) for run in ("first", "second", "third")]
    assert [None if one is None else one.version for one in found] == [1, 2, None]


@pytest.mark.parametrize(
    "name",
    ["../timestamp.json", "/etc/passwd", "a/b.json", "timestamp", "0.root.json", "..json",
     "TIMESTAMP.json", "timestamp.json\n", "", ".json", "1.2.root.json"],
)  # fmt: skip
def test_names_that_are_no_metadata_files_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError):
        check_metadata_name(name)


@pytest.mark.parametrize("channel", ["root", "timestamp", "Stable", "a/b", "", "-x", "..", "s\n"])
def test_a_channel_is_a_plain_name_and_no_role_of_tuf(channel: str) -> None:
    with pytest.raises(InvalidInputError):
        check_channel(channel)


def test_a_manifest_survives_the_way_through_its_bytes() -> None:
    manifest = manifest_of({"model.onnx": b"x"}, 7)
    assert ReleaseManifest.parse(manifest.to_bytes()) == manifest


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("epsilon", "-1", "epsilon"),
        ("rounds", [2, 1], "rounds"),
        ("channel", "root", "channel"),
        ("files", {"../up": {"sha256": "a" * 64, "size_bytes": 1}}, "files"),
        ("files", {"manifest.json": {"sha256": "a" * 64, "size_bytes": 1}}, "files"),
        ("created", "2026-01-01T00:00:00", "created"),
        ("version", "7", "canonical"),
        ("merchants", 5, "merchants"),
    ],
)
def test_a_manifest_with_a_wrong_field_is_refused_by_name(
    field: str, value: object, named: str
) -> None:
    fields = json.loads(manifest_of({"model.onnx": b"x"}, 7).to_bytes())
    with pytest.raises(UntrustedReleaseError, match=named):
        ReleaseManifest.parse(canonical_json({**fields, field: value}))


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"[" * 100_000, b"1" * 5000])
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(UntrustedReleaseError):
        ReleaseManifest.parse(data)


def test_the_stated_epsilon_is_the_largest_and_rounded_up() -> None:
    assert epsilon_text([0.5, 1.23451]) == "1.2346"
    assert epsilon_text([2.0]) == "2.0000"
    for nothing in ([], [float("inf")], [float("nan")], [-0.1]):
        with pytest.raises(InvalidInputError):
            epsilon_text(nothing)


def crash_after(monkeypatch: pytest.MonkeyPatch, survived: int) -> None:
    """The power fails at the metadata write that follows ``survived`` good ones."""
    left = [survived]

    def write(path: Path, data: bytes) -> None:
        if left[0] == 0:
            raise PowerCutError
        left[0] -= 1
        path.write_bytes(data)

    monkeypatch.setattr(writer, "write_atomically", write)


def numbered_files(world: ReleaseWorld) -> dict[str, bytes]:
    folder = world.repository_folder / "metadata"
    return {path.name: path.read_bytes() for path in folder.glob("[0-9]*.json")}
