import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

from hansa.compression.artifact import HASHED, MODEL, Artifact, read_artifact
from hansa.compression.package import ZeroShotTower, build_artifact, build_gated_artifact
from hansa.core.canonical import sha256_hex
from hansa.core.errors import (
    ConflictError,
    InvalidInputError,
    ReleaseGateError,
    UntrustedReleaseError,
)
from hansa.core.ids import Sha256
from hansa.core.plan import CompressionSpec
from tests.fakes.tiny_model import (
    DIM,
    VECTOR_DIM,
    TinyTower,
    base_info,
    texts,
    tiny_artifact,
    tiny_encoder,
    write_tokenizer,
)


class Uneven(nn.Module):
    def forward(self, history: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        return history * 1.0, item[:, :2] * 1.0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("built"))


@pytest.fixture
def artifact(built: Artifact, tmp_path: Path) -> Artifact:
    """A copy that a test may damage."""
    return read_artifact(Path(shutil.copytree(built.folder, tmp_path / "artifact")))


def test_release_has_exactly_its_four_files_with_digest_and_size(artifact: Artifact) -> None:
    on_disk = {path.name: path.read_bytes() for path in artifact.folder.iterdir()}
    assert set(on_disk) == {*HASHED, MODEL} == set(artifact.files)
    for name, data in on_disk.items():
        assert artifact.files[name].sha256 == sha256_hex(data)
        assert artifact.files[name].size_bytes == len(data)
    assert artifact.digest == sha256_hex(on_disk[MODEL])
    assert artifact.size_bytes == sum(map(len, on_disk.values()))
    assert (artifact.card.embedding_dim, artifact.card.vector_dim) == (DIM, VECTOR_DIM)


def test_the_same_model_gives_the_same_digest(artifact: Artifact, tmp_path: Path) -> None:
    assert tiny_artifact(tmp_path / "again").digest == artifact.digest
    assert tiny_artifact(tmp_path / "other", seed=5).digest != artifact.digest


def test_an_existing_folder_is_never_overwritten(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="written once"):
        tiny_artifact(tmp_path)
    assert read_artifact(artifact.folder).digest == artifact.digest


def test_a_candidate_outside_the_gate_leaves_nothing_behind(tmp_path: Path) -> None:
    tokenizer, out = write_tokenizer(tmp_path / "tokenizer"), tmp_path / "out" / "release"
    limits = CompressionSpec(max_size_bytes=1000)
    with pytest.raises(ReleaseGateError, match="max_size_bytes 1000"):
        build_gated_artifact(
            tiny_encoder(), tokenizer, TinyTower(), base_info(), out, texts=texts(30), limits=limits
        )
    assert list(out.parent.iterdir()) == []


def test_a_candidate_within_the_gate_is_released_with_its_figures(tmp_path: Path) -> None:
    tokenizer, out = write_tokenizer(tmp_path / "tokenizer"), tmp_path / "release"
    limits = CompressionSpec(min_cosine=0.95, max_ndcg_loss=0.5)
    artifact, figures = build_gated_artifact(
        tiny_encoder(), tokenizer, ZeroShotTower(), base_info(), out, texts=texts(60), limits=limits
    )
    assert figures.size_bytes == artifact.size_bytes
    assert 0.95 <= figures.p1_cosine <= figures.mean_cosine <= 1.0001
    assert artifact.folder == out


def test_a_tower_of_two_widths_is_refused(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(InvalidInputError, match="user vectors have 32 numbers, item vectors 2"):
        build_artifact(tiny_encoder(), tokenizer, Uneven(), base_info(), tmp_path / "out")


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no readable tokenizer\.json"):
        build_artifact(tiny_encoder(), tmp_path, TinyTower(), base_info(), tmp_path / "out")


@pytest.mark.parametrize("name", HASHED)
def test_one_changed_byte_in_any_file_is_refused(artifact: Artifact, name: str) -> None:
    path = artifact.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UntrustedReleaseError, match="not the file that was released"):
        read_artifact(artifact.folder).read(name)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"",
    ],
)
def test_a_file_of_another_length_is_refused(
    artifact: Artifact, damage: Callable[[bytes], bytes]
) -> None:
    path = artifact.folder / "tower.onnx"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UntrustedReleaseError):
        read_artifact(artifact.folder).read("tower.onnx")


def test_a_missing_file_is_refused(artifact: Artifact) -> None:
    (artifact.folder / "tower.onnx").unlink()
    with pytest.raises(UntrustedReleaseError, match="cannot be read"):
        artifact.read("tower.onnx")


def test_another_release_than_the_trusted_one_is_refused(artifact: Artifact) -> None:
    assert read_artifact(artifact.folder, expected=artifact.digest).digest == artifact.digest
    with pytest.raises(UntrustedReleaseError, match="not the one that was released"):
        read_artifact(artifact.folder, expected=Sha256("0" * 64))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"format":"hansa-artifact-1"}',
        b"[" * 100_000,
    ],
)
def test_a_malformed_model_json_is_refused(artifact: Artifact, content: bytes) -> None:
    (artifact.folder / MODEL).write_bytes(content)
    with pytest.raises(UntrustedReleaseError):
        read_artifact(artifact.folder)


def test_model_json_cannot_name_a_file_elsewhere(artifact: Artifact) -> None:
    card = artifact.card
    moved = {**card.files, "../secret": card.files["tower.onnx"]}
    (artifact.folder / MODEL).write_bytes(card.model_copy(update={"files": moved}).to_bytes())
    with pytest.raises(UntrustedReleaseError, match="must name exactly"):
        read_artifact(artifact.folder)
