"""What a wipe removes, what it keeps, and what it never follows."""

from pathlib import Path

import pytest

from hansa.client.site import Site
from hansa.client.wipe import wipe, wiped_paths
from hansa.core.errors import InvalidInputError

KEPT = {"path", "ledger", "log"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site in which every place that a site has holds something."""
    site = Site(tmp_path / "site")
    site.path.mkdir()
    for name, path in places(site).items():
        if path.suffix:
            path.write_text(name)
        else:
            (path / "inner").mkdir(parents=True)
            (path / "inner" / "file").write_text(name)
    (site.path / "site.json").write_text("{}")
    return site


def places(site: Site) -> dict[str, Path]:
    return {name: path for name, path in vars(site).items() if name != "path"}


def left(site: Site) -> set[str]:
    return {path.name for path in site.path.iterdir()} if site.path.exists() else set()


def test_every_place_of_a_site_is_either_wiped_or_a_book(site: Site) -> None:
    """A place that is added to a site later must be decided upon here."""
    wiped = set(wiped_paths(site, books=False))
    assert {name for name, path in places(site).items() if path not in wiped} == {"ledger", "log"}


def test_a_wipe_removes_all_but_the_books(site: Site) -> None:
    wipe(site)
    assert left(site) == {"ledger", "log"}
    assert (site.ledger / "inner" / "file").read_text() == "ledger"


def test_with_the_books_nothing_is_left_of_the_site(site: Site) -> None:
    wipe(site, books=True)
    assert not site.path.exists()


def test_files_of_somebody_else_stay(site: Site) -> None:
    (site.path / "notes-of-the-shop.txt").write_text("mine")
    outside = site.path.parent / "beside.txt"
    outside.write_text("mine")
    wipe(site, books=True)
    assert left(site) == {"notes-of-the-shop.txt"}
    assert outside.exists()


def test_a_link_is_removed_and_what_it_points_to_stays(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "warehouse"
    target.mkdir()
    (target / "export.csv").write_text("rows")
    (site.dataset / "linked").symlink_to(target)
    (site.cache / "inner" / "file").unlink()
    (site.cache / "inner").rmdir()
    site.cache.rmdir()
    site.cache.symlink_to(target)
    wipe(site, books=True)
    assert (target / "export.csv").read_text() == "rows"
    assert not site.cache.is_symlink()


def test_what_a_torn_write_left_is_removed_too(site: Site) -> None:
    torn = site.path / ".pseudonyms.key.0123abcd.part"
    torn.write_text("half a key")
    wipe(site)
    assert not torn.exists()


def test_an_interrupted_wipe_goes_on_when_it_is_repeated(site: Site) -> None:
    """The settings are last: without them the command would not know its site any more."""
    assert wiped_paths(site, books=True)[-1].name == "site.json"
    wipe(site)
    assert wipe(site) == []
    assert left(site) == {"ledger", "log"}


def test_what_cannot_be_removed_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(InvalidInputError, match="dataset/inner/file: Permission denied; mend"):
        wipe(site)
