import pytest

from hansa.core.errors import InvalidInputError
from hansa.core.wire_version import WIRE, WireVersion


@pytest.mark.parametrize(
    ("ours", "theirs", "spoken"), [(1, 0, "1.0"), (0, 1, "1.0"), (3, 2, "1.2"), (2, 2, "1.2")]
)
def test_both_speak_the_lesser_minor(ours: int, theirs: int, spoken: str) -> None:
    assert str(WireVersion(major=1, minor=ours).with_peer("1", theirs)) == spoken


@pytest.mark.parametrize("major", ["2", "", "1.1", "01", "x" * 100])
def test_another_major_is_refused_with_both_versions(major: str) -> None:
    with pytest.raises(InvalidInputError, match=r"speaks protocol version 1\.1") as refused:
        WireVersion(major=1, minor=1).with_peer(major, 0)
    assert repr(major[:16]) in str(refused.value)


def test_the_major_is_offered_as_version_1_0_compared_it() -> None:
    assert WIRE.offered_major == "1"
