import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.core.errors import InvalidInputError
from hansa.core.secure import shamir
from tests.fakes.entropy import SeededEntropy

SECRET = bytes(range(32))


def combined(shares: dict[int, bytes]) -> bytes:
    return shamir.combine(shares, shamir.weights(list(shares)))


def numbered(shares: list[bytes]) -> dict[int, bytes]:
    return dict(enumerate(shares, 1))


def as_share(number: int) -> bytes:
    return number.to_bytes(shamir.SHARE_BYTES, "big")


def test_the_field_is_that_of_p_521() -> None:
    digits = "1ff" + 128 * "f"
    assert int(digits, 16) == shamir.PRIME
    assert pow(3, shamir.PRIME - 1, shamir.PRIME) == 1
    assert 2 ** (8 * shamir.SECRET_BYTES) < shamir.PRIME < 2 ** (8 * shamir.SHARE_BYTES)


def test_any_three_points_of_a_known_parabola_give_its_constant() -> None:
    """The textbook's 1234 + 166 x + 94 x^2; the numbers are too small to wrap."""
    points = {1: 1494, 2: 1942, 3: 2578, 4: 3402, 5: 4414, 6: 5614}
    for chosen in itertools.combinations(points, 3):
        secret = combined({x: as_share(points[x]) for x in chosen})
        assert int.from_bytes(secret, "big") == 1234


def test_shares_are_the_values_of_a_polynomial_with_the_drawn_coefficients() -> None:
    """With a source that gives only ones, the polynomial is the secret + c x + c x^2."""

    class Ones:
        def random_bytes(self, n: int, /) -> bytes:
            return bytes(n - 1) + b"\x01"

    secret = (7).to_bytes(32, "big")
    found = shamir.split(secret, threshold=3, shares=3, entropy=Ones())
    assert [int.from_bytes(share, "big") for share in found] == [7 + 1 + 1, 7 + 2 + 4, 7 + 3 + 9]


@settings(max_examples=30)
@given(st.binary(min_size=32, max_size=32), st.data())
def test_any_threshold_of_shares_gives_the_secret_back(secret: bytes, data) -> None:
    shares = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, shares))
    dealt = numbered(
        shamir.split(secret, threshold=threshold, shares=shares, entropy=SeededEntropy(1))
    )
    chosen = data.draw(st.permutations(list(dealt)))[:threshold]
    assert combined({x: dealt[x] for x in chosen}) == secret


@settings(max_examples=20)
@given(st.binary(min_size=32, max_size=32), st.integers(2, 8), st.data())
def test_one_share_less_fits_every_other_secret_as_well(other: bytes, threshold: int, data) -> None:
    """For any secret there is a last share that completes the known ones to it."""
    dealt = numbered(
        shamir.split(SECRET, threshold=threshold, shares=threshold, entropy=SeededEntropy(2))
    )
    missing = data.draw(st.sampled_from(list(dealt)))
    weight = shamir.weights(list(dealt))
    known = sum(
        int.from_bytes(share, "big") * weight[x] for x, share in dealt.items() if x != missing
    )
    wanted = int.from_bytes(other, "big")
    last = (wanted - known) * pow(weight[missing], -1, shamir.PRIME) % shamir.PRIME
    assert combined({**dealt, missing: as_share(last)}) == other


def test_one_share_less_gives_something_else() -> None:
    dealt = numbered(shamir.split(SECRET, threshold=4, shares=6, entropy=SeededEntropy(3)))
    with pytest.raises(InvalidInputError, match="belong together"):
        combined({x: dealt[x] for x in (1, 2, 3)})


def test_a_share_of_one_secret_is_spread_over_the_whole_field() -> None:
    """The first byte below the top bit, over 4096 dealings of the same secret: chi-square, 255."""
    entropy = SeededEntropy(4)
    counts = [0] * 256
    for _ in range(4096):
        counts[shamir.split(SECRET, threshold=2, shares=1 + 1, entropy=entropy)[0][1]] += 1
    assert sum((count - 16) ** 2 / 16 for count in counts) < 345  # 1 of 10,000 is above


@pytest.mark.parametrize(("threshold", "shares"), [(0, 3), (4, 3), (-1, 3)])
def test_a_threshold_outside_the_shares_is_refused(threshold: int, shares: int) -> None:
    with pytest.raises(InvalidInputError, match="threshold"):
        shamir.split(SECRET, threshold=threshold, shares=shares, entropy=SeededEntropy())


def test_malformed_shares_and_points_are_refused() -> None:
    weight = shamir.weights([1, 2])
    for bad in (b"", b"\x00" * 65, as_share(shamir.PRIME), b"\xff" * 66):
        with pytest.raises(InvalidInputError):
            shamir.combine({1: as_share(1), 2: bad}, weight)
    for points in ([1, 1], [0, 1], [-1, 2], [shamir.PRIME, 1]):
        with pytest.raises(InvalidInputError, match="distinct"):
            shamir.weights(points)
    with pytest.raises(InvalidInputError, match="weights"):
        shamir.combine({1: as_share(1)}, weight)
    with pytest.raises(InvalidInputError, match="32 bytes"):
        shamir.split(b"short", threshold=1, shares=1, entropy=SeededEntropy())
