"""The Merkle tree: the vectors of Certificate Transparency, and a naive tree beside it."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.core.errors import InvalidInputError, TransparencyError
from hansa.core.transparency.merkle import (
    EMPTY_ROOT,
    Tree,
    consistency_path,
    inclusion_path,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)

# The inputs, roots and proofs of certificate-transparency's merkle_tree_test.
INPUTS = [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSIONS = [
    (0, 1, []),
    (0, 8, [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]),
    (5, 8, [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (1, 5, [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ]),
]  # fmt: skip
CONSISTENCIES = [
    (1, 1, []),
    (1, 8, [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]),
    (6, 8, [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]),
    (2, 5, [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ]),
]  # fmt: skip


def known_tree() -> Tree:
    return Tree(leaf_hash(bytes.fromhex(text)) for text in INPUTS)


def tree_of(size: int) -> Tree:
    return Tree(leaf_hash(b"%d" % number) for number in range(size))


def naive_root(leaves: list[bytes]) -> bytes:
    """As RFC 6962 writes it down."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = naive_root(leaves[:split]), naive_root(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def unhex(proof: list[str]) -> list[bytes]:
    return [bytes.fromhex(one) for one in proof]


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert Tree().root() == EMPTY_ROOT == hashlib.sha256().digest()


@pytest.mark.parametrize(("size", "root"), list(enumerate(ROOTS, 1)))
def test_roots_are_those_of_certificate_transparency(size, root) -> None:
    assert known_tree().root(size).hex() == root


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSIONS)
def test_audit_paths_are_those_of_certificate_transparency(index, size, proof) -> None:
    tree = known_tree()
    assert [one.hex() for one in tree.inclusion(index, size)] == proof
    leaf = leaf_hash(bytes.fromhex(INPUTS[index]))
    root = bytes.fromhex(ROOTS[size - 1])
    verify_inclusion(leaf, index=index, size=size, proof=unhex(proof), root=root)


@pytest.mark.parametrize(("first", "second", "proof"), CONSISTENCIES)
def test_consistency_proofs_are_those_of_certificate_transparency(first, second, proof) -> None:
    assert [one.hex() for one in known_tree().consistency(first, second)] == proof
    verify_consistency(
        first,
        second,
        first_root=bytes.fromhex(ROOTS[first - 1]),
        second_root=bytes.fromhex(ROOTS[second - 1]),
        proof=unhex(proof),
    )


@given(st.lists(st.binary(max_size=4), max_size=40))
@settings(deadline=None, max_examples=60)
def test_every_earlier_root_is_that_of_the_naive_tree(leaves) -> None:
    tree = Tree(leaf_hash(leaf) for leaf in leaves)
    for size in range(len(leaves) + 1):
        assert tree.root(size) == naive_root(leaves[:size])


def test_every_leaf_is_proven_in_every_size_up_to_forty() -> None:
    tree = tree_of(40)
    for size in range(1, 41):
        for index in range(size):
            verify_inclusion(
                leaf_hash(b"%d" % index),
                index=index,
                size=size,
                proof=tree.inclusion(index, size),
                root=tree.root(size),
            )


def test_every_growth_up_to_forty_is_proven() -> None:
    tree = tree_of(40)
    for second in range(1, 41):
        for first in range(1, second + 1):
            verify_consistency(
                first,
                second,
                first_root=tree.root(first),
                second_root=tree.root(second),
                proof=tree.consistency(first, second),
            )


@given(st.data(), st.integers(2, 64))
@settings(deadline=None)
def test_a_changed_proof_is_refused(data, size) -> None:
    tree = tree_of(size)
    first = data.draw(st.integers(1, size - 1))
    proof = tree.consistency(first)
    place = data.draw(st.integers(0, len(proof) - 1))
    changed = [hashlib.sha256(one).digest() if at == place else one for at, one in enumerate(proof)]
    for forged in (changed, proof[:-1], [*proof, proof[0]]):
        with pytest.raises(TransparencyError):
            verify_consistency(
                first, size, first_root=tree.root(first), second_root=tree.root(), proof=forged
            )


@given(st.data(), st.integers(2, 64))
@settings(deadline=None)
def test_an_audit_path_for_another_place_or_size_is_refused(data, size) -> None:
    tree = tree_of(size)
    index = data.draw(st.integers(0, size - 1))
    leaf, proof = leaf_hash(b"%d" % index), tree.inclusion(index)
    other = data.draw(st.integers(0, size - 1).filter(lambda one: one != index))
    with pytest.raises(TransparencyError):
        verify_inclusion(leaf, index=other, size=size, proof=proof, root=tree.root())
    for smaller in (size // 2, 2 * size):
        with pytest.raises(TransparencyError):
            verify_inclusion(leaf, index=index, size=smaller, proof=proof, root=tree.root())


def test_a_proof_for_other_sizes_is_refused() -> None:
    """Of another shape, that is: root and size are bound to each other by the checkpoint alone."""
    tree = tree_of(20)
    proof = tree.consistency(6, 20)
    for first, second in [(7, 20), (12, 20), (6, 12), (6, 40), (20, 6)]:
        with pytest.raises(TransparencyError):
            verify_consistency(
                first, second, first_root=tree.root(6), second_root=tree.root(20), proof=proof
            )


def test_a_forked_tree_has_no_proof() -> None:
    tree = tree_of(20)
    fork = Tree(leaf_hash(b"%d" % (99 if number == 3 else number)) for number in range(20))
    with pytest.raises(TransparencyError, match="an entry before 6 was changed"):
        verify_consistency(
            6, 20, first_root=tree.root(6), second_root=fork.root(), proof=fork.consistency(6)
        )


def test_the_empty_log_is_the_beginning_of_every_log() -> None:
    tree = tree_of(3)
    verify_consistency(0, 3, first_root=EMPTY_ROOT, second_root=tree.root(), proof=[])
    with pytest.raises(TransparencyError):
        verify_consistency(0, 3, first_root=tree.root(), second_root=tree.root(), proof=[])


def test_proofs_of_a_million_entries_are_short() -> None:
    assert len(inclusion_path(777_777, 1_000_000)) == 20
    assert len(consistency_path(777_777, 1_000_000)) <= 21


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5)])
def test_there_is_no_path_to_an_entry_that_is_not_there(index, size) -> None:
    with pytest.raises(InvalidInputError):
        inclusion_path(index, size)


@pytest.mark.parametrize(("first", "second"), [(0, 5), (6, 5)])
def test_there_is_no_path_from_a_size_that_the_log_never_had(first, second) -> None:
    with pytest.raises(InvalidInputError):
        consistency_path(first, second)
