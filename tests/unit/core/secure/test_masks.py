import numpy as np
import pytest

from hansa.core.errors import InvalidInputError
from hansa.core.ids import MerchantId, Sha256
from hansa.core.secure.masks import Purpose, add_mask, agree, derive, private_key, public_half
from hansa.core.secure.vector import difference, moved, size_of
from tests.fakes.entropy import SeededEntropy

ROSTER = Sha256("a" * 64)
A, B = MerchantId("a"), MerchantId("b")


def test_x25519_agrees_as_in_the_standard() -> None:
    """RFC 7748: the first vector of section 5.2, and Bob's keys of section 6.1."""
    private = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    public = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    shared = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert agree(private_key(private), public).hex() == shared
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert public_half(bob).hex() == (
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    )
    assert agree(private_key(private), public_half(bob)) == agree(
        private_key(bob), public_half(private)
    )


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_a_mask_added_and_subtracted_leaves_nothing(dtype) -> None:
    values = np.arange(300_000, dtype=dtype)
    total = values.copy()
    add_mask(total, bytes(32), sign=1)
    assert not np.array_equal(total, values)
    add_mask(total, bytes(32), sign=-1)
    assert np.array_equal(total, values)


def test_a_mask_is_the_aes_keystream_of_the_standard() -> None:
    """NIST's AES-256 known answer: the zero block under the zero key."""
    total = np.zeros(2, np.uint64)
    add_mask(total, bytes(32), sign=1)
    assert total.astype("<u8").tobytes().hex() == "dc95c078a2408989ad48a21492842087"


def test_a_longer_mask_begins_with_the_shorter_one() -> None:
    short, long = np.zeros(7, np.uint64), np.zeros(400_000, np.uint64)
    add_mask(short, b"k" * 32, sign=1)
    add_mask(long, b"k" * 32, sign=1)
    assert np.array_equal(long[:7], short)
    assert len(np.unique(long)) == len(long)


def test_every_purpose_round_and_pair_has_its_own_key() -> None:
    keys = {
        derive(b"s" * 32, Purpose.PAIR_MASK, ROSTER, A, B),
        derive(b"s" * 32, Purpose.PAIR_MASK, ROSTER, B, A),
        derive(b"s" * 32, Purpose.SEAL, ROSTER, A, B),
        derive(b"s" * 32, Purpose.SELF_MASK, ROSTER, A),
        derive(b"s" * 32, Purpose.PAIR_MASK, Sha256("b" * 64), A, B),
        derive(b"s" * 32, Purpose.PAIR_MASK, ROSTER, MerchantId("ab"), MerchantId("")),
        derive(b"t" * 32, Purpose.PAIR_MASK, ROSTER, A, B),
    }
    assert len(keys) == 7


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31), b"short"])
def test_a_key_of_small_order_or_length_is_refused(public: bytes) -> None:
    with pytest.raises(InvalidInputError, match="usable"):
        agree(private_key(SeededEntropy(1).random_bytes(32)), public)


def test_a_step_and_back_gives_the_update() -> None:
    model = {"w": np.array([[1.0, 2.0]], np.float32), "b": np.array(0.5, np.float32)}
    update = {"w": np.array([[1.5, 1.0]], np.float32), "b": np.array(0.25, np.float32)}
    step = difference(model, update)
    assert step.tolist() == [0.5, -1.0, -0.25]
    back = moved(model, step)
    assert all(np.array_equal(back[name], update[name]) for name in model)
    assert [back[name].shape for name in model] == [(1, 2), ()]
    assert [back[name].dtype for name in model] == [np.float32, np.float32]


def test_a_model_with_integers_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="'steps' is int64"):
        size_of({"w": np.zeros(2, np.float32), "steps": np.zeros(1, np.int64)})
