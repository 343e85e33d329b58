"""The updater against a server that lies, breaks, stalls or goes back in time."""

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Timestamp

from hansa.client.updates.updater import UpdateLimits, Updater
from hansa.core.errors import (
    ConflictError,
    HansaError,
    NotFoundError,
    TransportError,
    UntrustedReleaseError,
)
from hansa.core.ids import ReleaseVersion
from hansa.core.release import ReleaseManifest
from hansa.server.releases.keys import (
    ROOT_KEYS,
    create_channel_key,
    create_keys,
    load_offline_keys,
    load_online_keys,
)
from hansa.server.releases.repository import ReleaseRepository
from tests.fakes.release_source import PIECE_BYTES, FakeReleaseSource
from tests.fakes.release_world import CHANNEL, TODAY, ReleaseWorld, manifest_of, pseudo_random
from tests.fakes.statements import stated

MODEL_BYTES = 300_000


@pytest.fixture
def world(tmp_path: Path) -> ReleaseWorld:
    world = ReleaseWorld(tmp_path)
    world.release(1)
    return world


@pytest.fixture
def source(world: ReleaseWorld) -> FakeReleaseSource:
    return FakeReleaseSource(world.files)


@pytest.fixture
def updater(world: ReleaseWorld, source: FakeReleaseSource) -> Updater:
    return site(world, source)


def site(world: ReleaseWorld, source: FakeReleaseSource) -> Updater:
    """The site's updater as it starts with the process; its folder outlives it."""
    return Updater(world.folder / "site", source, world.root)


def serves(updater: Updater) -> int | None:
    manifest = updater.current_manifest()
    return None if manifest is None else manifest.version


def refuses(updater: Updater, sentence: str) -> None:
    """The update is refused with this sentence, and what was served before still is."""
    before = serves(updater)
    with pytest.raises(UntrustedReleaseError, match=sentence):
        updater.refresh_and_fetch(CHANNEL)
    assert serves(updater) == before


def test_the_newest_release_is_installed_whole(world: ReleaseWorld, updater: Updater) -> None:
    folder = updater.refresh_and_fetch(CHANNEL)
    assert folder == world.folder / "site/releases/stable/1" == updater.current()
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "model.onnx", "privacy.json", "tokenizer.json",
    }  # fmt: skip
    assert (folder / "model.onnx").read_bytes() == pseudo_random(MODEL_BYTES, 1)
    assert ReleaseManifest.parse((folder / "manifest.json").read_bytes()).version == 1


def test_nothing_is_served_before_the_first_update(updater: Updater) -> None:
    assert updater.current() is None
    assert updater.current_manifest() is None


def test_a_second_update_brings_nothing_and_fetches_nothing(
    updater: Updater, source: FakeReleaseSource
) -> None:
    updater.refresh_and_fetch(CHANNEL)
    source.sent.clear()
    assert updater.refresh_and_fetch(CHANNEL) is None
    assert source.bytes_sent("stable/1/model.onnx") == 0


def test_a_channel_without_a_release_brings_nothing(tmp_path: Path) -> None:
    world = ReleaseWorld(tmp_path)
    updater = site(world, FakeReleaseSource(world.files))
    assert updater.refresh_and_fetch(CHANNEL) is None
    assert updater.refresh_and_fetch("nightly") is None


def test_a_file_that_an_installed_release_has_is_not_fetched_again(
    world: ReleaseWorld, updater: Updater, source: FakeReleaseSource
) -> None:
    updater.refresh_and_fetch(CHANNEL)
    world.release(2)
    updater.refresh_and_fetch(CHANNEL)
    assert source.bytes_sent("stable/2/tokenizer.json") == 0
    assert source.bytes_sent("stable/2/model.onnx") == MODEL_BYTES


def test_a_published_rollback_is_installed_without_fetching_its_files(
    world: ReleaseWorld, updater: Updater, source: FakeReleaseSource
) -> None:
    updater.refresh_and_fetch(CHANNEL)
    world.release(2)
    updater.refresh_and_fetch(CHANNEL)
    world.repository.roll_back(CHANNEL, ReleaseVersion(1), TODAY)
    folder = updater.refresh_and_fetch(CHANNEL)
    assert folder is not None
    assert serves(updater) == 3
    assert (folder / "model.onnx").read_bytes() == pseudo_random(MODEL_BYTES, 1)
    assert source.bytes_sent("stable/3/model.onnx") == 0


def test_old_releases_are_tidied_away_and_the_served_one_stays(
    world: ReleaseWorld, source: FakeReleaseSource
) -> None:
    updater = Updater(world.folder / "site", source, world.root, UpdateLimits(kept_releases=2))
    for version in (2, 3, 4):
        updater.refresh_and_fetch(CHANNEL)
        world.release(version)
    updater.refresh_and_fetch(CHANNEL)
    kept = {path.name for path in (world.folder / "site/releases/stable").iterdir()}
    assert kept == {"3", "4"}
    assert serves(updater) == 4


def test_a_flipped_byte_in_a_target_is_refused(world: ReleaseWorld, updater: Updater) -> None:
    manifest = world.repository.newest(CHANNEL)
    assert manifest is not None
    blob = world.blob(manifest, "model.onnx")
    data = bytearray(blob.read_bytes())
    data[123_456] ^= 1
    blob.write_bytes(data)
    refuses(updater, r"'stable/1/model\.onnx' are not those signed")
    assert all(part.stat().st_size < 2000 for part in (world.folder / "site/parts").iterdir())


def test_a_truncated_target_is_never_installed(world: ReleaseWorld, updater: Updater) -> None:
    manifest = world.repository.newest(CHANNEL)
    assert manifest is not None
    os.truncate(world.blob(manifest, "model.onnx"), MODEL_BYTES - 1)
    with pytest.raises(TransportError, match="299999 of 300000 bytes"):
        updater.refresh_and_fetch(CHANNEL)
    assert updater.current() is None


def test_an_endless_target_is_cut_off_at_its_promised_length(
    world: ReleaseWorld, updater: Updater, source: FakeReleaseSource
) -> None:
    source.endless = True
    with pytest.raises(UntrustedReleaseError, match="more than the"):
        updater.refresh_and_fetch(CHANNEL)
    assert sum(count for _, _, count in source.sent) <= 2 * PIECE_BYTES
    assert all(part.stat().st_size < 2000 for part in (world.folder / "site/parts").iterdir())


@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json"])
def test_endless_metadata_is_refused(
    updater: Updater, source: FakeReleaseSource, name: str
) -> None:
    source.metadata_override[name] = b" " * 600_000
    refuses(updater, "exceeding the maximum allowed length")


def publish_lie(
    world: ReleaseWorld, monkeypatch: pytest.MonkeyPatch, method: str, answer: object
) -> None:
    """A publisher with all the right keys signs a release 2 that contradicts itself."""
    files = {"model.onnx": b"what is stored"}
    monkeypatch.setattr(ReleaseRepository, "_already_newest", lambda *_: False)
    monkeypatch.setattr(ReleaseManifest, method, lambda _: answer)
    world.publish(manifest_of(files, 2), files)
    monkeypatch.undo()


def test_a_manifest_that_disagrees_with_the_signed_targets_is_refused(
    world: ReleaseWorld, updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_lie(world, monkeypatch, "target_facts", {"version": 3})
    refuses(updater, "manifest and the signed metadata disagree")


def test_a_wrong_digest_in_the_manifest_is_refused(
    world: ReleaseWorld, updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    updater.refresh_and_fetch(CHANNEL)
    lie = stated(manifest_of({"model.onnx": b"what is promised"}, 2))[0].to_bytes()
    publish_lie(world, monkeypatch, "to_bytes", lie)
    refuses(updater, r"'model\.onnx' of release 2 is not what the manifest promises")


def test_a_manifest_naming_a_file_without_a_target_is_refused(
    world: ReleaseWorld, updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, _ = stated(manifest_of({"model.onnx": b"what is stored", "extra.bin": b"y"}, 2))
    publish_lie(world, monkeypatch, "to_bytes", wide.to_bytes())
    refuses(updater, r"names 'stable/2/extra\.bin', the signed metadata does not")


def test_metadata_older_than_what_was_seen_is_refused(
    world: ReleaseWorld, updater: Updater, source: FakeReleaseSource
) -> None:
    old = world.files.metadata("timestamp.json")
    world.release(2)
    updater.refresh_and_fetch(CHANNEL)
    source.metadata_override["timestamp.json"] = old
    refuses(updater, "offers old metadata")
    assert serves(updater) == 2


def test_a_publisher_that_lowers_the_release_version_is_refused(
    world: ReleaseWorld, updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.release(2)
    updater.refresh_and_fetch(CHANNEL)
    monkeypatch.setattr(ReleaseRepository, "_already_newest", lambda *_: False)
    world.release(1, {"model.onnx": b"back in time"})
    refuses(updater, "release 1 is older than the installed 2")


def test_an_expired_timestamp_stops_updates_and_not_serving(
    world: ReleaseWorld, updater: Updater, source: FakeReleaseSource
) -> None:
    updater.refresh_and_fetch(CHANNEL)
    world.release(2)
    world.expire_timestamp()
    refuses(updater, r"timestamp\.json is expired; the current release goes on being served")
    assert serves(site(world, source)) == 1
    world.repository.refresh_timestamp(TODAY)
    updater.refresh_and_fetch(CHANNEL)
    assert serves(updater) == 2


def test_a_server_that_cannot_be_reached_stops_updates_and_not_serving(
    updater: Updater, source: FakeReleaseSource
) -> None:
    updater.refresh_and_fetch(CHANNEL)
    source.offline = True
    with pytest.raises(TransportError, match="the fake server is offline"):
        updater.refresh_and_fetch(CHANNEL)
    assert serves(updater) == 1


def test_files_of_two_publications_do_not_mix(
    world: ReleaseWorld, updater: Updater, source: FakeReleaseSource
) -> None:
    updater.refresh_and_fetch(CHANNEL)
    old = world.files.role(CHANNEL).signed.version
    world.release(2)
    source.metadata_override[f"{old + 1}.{CHANNEL}.json"] = world.files.metadata(
        f"{old}.{CHANNEL}.json"
    )
    refuses(updater, "no update")


def test_metadata_signed_by_foreign_keys_is_refused(world: ReleaseWorld, updater: Updater) -> None:
    updater.refresh_and_fetch(CHANNEL)
    create_keys(world.folder / "foreign", world.folder / "foreign-offline", [CHANNEL])
    foreign = load_online_keys(world.folder / "foreign")
    files = {"model.onnx": b"malware"}
    repository = ReleaseRepository(world.repository_folder, foreign)
    repository.publish(world.artifact(files, 2), manifest_of(files, 2), TODAY)
    refuses(updater, "signatures are missing: timestamp was signed by 0/1 keys")


def test_a_stolen_channel_key_alone_publishes_nothing(
    world: ReleaseWorld, updater: Updater, source: FakeReleaseSource
) -> None:
    updater.refresh_and_fetch(CHANNEL)
    timestamp = Metadata[Timestamp].from_bytes(world.files.metadata("timestamp.json"))
    timestamp.signed.version += 1
    timestamp.sign(load_online_keys(world.online).channels[CHANNEL])
    source.metadata_override["timestamp.json"] = timestamp.to_bytes()
    refuses(updater, "signatures are missing")


@pytest.mark.parametrize("signers", range(ROOT_KEYS))
def test_a_new_root_below_its_threshold_is_refused(
    world: ReleaseWorld, updater: Updater, source: FakeReleaseSource, signers: int
) -> None:
    updater.refresh_and_fetch(CHANNEL)
    source.metadata_override["2.root.json"] = root_with_a_thiefs_key(world, signers)
    if signers < 2:
        refuses(updater, f"root was signed by {signers}/2 keys")
    else:
        refuses(updater, "timestamp was signed by 0/1 keys")


def root_with_a_thiefs_key(world: ReleaseWorld, signers: int) -> bytes:
    root: Metadata[Root] = world.files.newest_root()
    root.signed.version = 2
    thief = CryptoSigner.generate_ed25519()
    root.signed.revoke_key(root.signed.roles["timestamp"].keyids[0], "timestamp")
    root.signed.add_key(thief.public_key, "timestamp")
    root.signatures.clear()
    for number in range(1, signers + 1):
        root.sign(read_root_key(world, number), append=True)
    return root.to_bytes()


def read_root_key(world: ReleaseWorld, number: int) -> CryptoSigner:
    return load_offline_keys(world.offline).roots[number - 1]


def test_a_renewed_root_with_new_online_keys_is_followed(
    world: ReleaseWorld, updater: Updater
) -> None:
    updater.refresh_and_fetch(CHANNEL)
    shutil.rmtree(world.online)
    create_keys(world.online, world.folder / "unused", [CHANNEL])
    world.renew()
    world.release(2)
    updater.refresh_and_fetch(CHANNEL)
    assert serves(updater) == 2


def test_a_site_that_slept_through_three_ceremonies_still_updates(
    world: ReleaseWorld, updater: Updater
) -> None:
    for _ in range(3):
        world.renew()
    create_channel_key(world.online, "canary")
    world.renew(TODAY + timedelta(seconds=1))
    updater.refresh_and_fetch(CHANNEL)
    assert serves(updater) == 1


def test_a_broken_line_is_resumed_where_it_broke(
    updater: Updater, source: FakeReleaseSource
) -> None:
    source.break_after = [10**9, 10**9, 100_001, 50_000]
    updater.refresh_and_fetch(CHANNEL)
    assert serves(updater) == 1
    streams = [(offset, n) for path, offset, n in source.sent if path == "stable/1/model.onnx"]
    assert streams == [(0, 100_001), (100_001, 50_000), (150_001, 149_999)]


def test_a_killed_process_resumes_and_only_the_missing_bytes_are_sent(
    world: ReleaseWorld, source: FakeReleaseSource
) -> None:
    limits = UpdateLimits(max_streams=1)
    killed = Updater(world.folder / "site", source, world.root, limits)
    source.break_after = [10**9, 10**9, 200_000]
    with pytest.raises(TransportError, match="200000 of 300000 bytes"):
        killed.refresh_and_fetch(CHANNEL)
    assert killed.current() is None
    source.sent.clear()
    updater = site(world, source)
    updater.refresh_and_fetch(CHANNEL)
    assert serves(updater) == 1
    assert source.bytes_sent("stable/1/model.onnx") == 100_000


def test_a_damaged_part_is_thrown_away_and_fetched_anew(
    world: ReleaseWorld, updater: Updater, source: FakeReleaseSource
) -> None:
    manifest = world.repository.newest(CHANNEL)
    assert manifest is not None
    parts = world.folder / "site/parts"
    parts.mkdir(parents=True)
    part = parts / f"{manifest.files['model.onnx'].sha256}.part"
    part.write_bytes(b"\0" * 200_000)
    updater.refresh_and_fetch(CHANNEL)
    assert serves(updater) == 1
    assert source.bytes_sent("stable/1/model.onnx") == 100_000 + MODEL_BYTES


def test_a_line_that_brings_nothing_is_not_tried_for_ever(
    updater: Updater, source: FakeReleaseSource
) -> None:
    source.break_after = [10**9, 0, 0, 0]
    with pytest.raises(TransportError, match="the fake line broke"):
        updater.refresh_and_fetch(CHANNEL)
    assert len(source.sent) == 2


def test_an_interrupted_installation_leaves_the_old_release_served(
    world: ReleaseWorld, updater: Updater, source: FakeReleaseSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    updater.refresh_and_fetch(CHANNEL)
    world.release(2)

    def power_cut(*_: object, **__: object) -> None:
        raise PowerCutError

    for step in ("write_atomically", "fsync_directory"):
        monkeypatch.setattr(f"hansa.client.updates.updater.{step}", power_cut)
        with pytest.raises(PowerCutError):
            updater.refresh_and_fetch(CHANNEL)
        monkeypatch.undo()
        assert serves(site(world, source)) == 1
    updater.refresh_and_fetch(CHANNEL)
    assert serves(updater) == 2
    assert source.bytes_sent("stable/2/model.onnx") == MODEL_BYTES


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_change_on_the_site_s_own_disk_is_seen_and_mended(updater: Updater, name: str) -> None:
    folder = updater.refresh_and_fetch(CHANNEL)
    assert folder is not None
    path = folder / name
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1)[:-1] + b"}")
    with pytest.raises(UntrustedReleaseError):
        updater.current()
    assert updater.refresh_and_fetch(CHANNEL) == folder
    assert serves(updater) == 1


def test_a_damaged_pointer_is_named_and_mended(world: ReleaseWorld, updater: Updater) -> None:
    updater.refresh_and_fetch(CHANNEL)
    (world.folder / "site/current").write_text(json.dumps({"version": "../../etc"}))
    with pytest.raises(UntrustedReleaseError, match="'current' is damaged"):
        updater.current()
    updater.refresh_and_fetch(CHANNEL)
    assert serves(updater) == 1


def test_a_lost_file_on_the_server_is_named(world: ReleaseWorld, updater: Updater) -> None:
    manifest = world.repository.newest(CHANNEL)
    assert manifest is not None
    world.blob(manifest, "model.onnx").unlink()
    with pytest.raises(NotFoundError):
        updater.refresh_and_fetch(CHANNEL)


def test_two_processes_do_not_update_one_site(world: ReleaseWorld, updater: Updater) -> None:
    class Nested(FakeReleaseSource):
        def metadata(self, name: str) -> bytes:
            with pytest.raises(ConflictError, match="another process"):
                updater.refresh_and_fetch(CHANNEL)
            return super().metadata(name)

    site(world, Nested(world.files)).refresh_and_fetch(CHANNEL)
    assert serves(updater) == 1


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"signed": 1}', b"[" * 9000])
@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json"])
def test_nonsense_for_metadata_ends_in_a_named_error(
    updater: Updater, source: FakeReleaseSource, name: str, data: bytes
) -> None:
    source.metadata_override[name] = data
    with pytest.raises(HansaError):
        updater.refresh_and_fetch(CHANNEL)
