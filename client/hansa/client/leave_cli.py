"""``hansa-client leave``: end the membership, keep the receipt, wipe the site."""

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from hansa.client.ledger_store import sole_user
from hansa.client.site import Site
from hansa.core.errors import InvalidInputError
from hansa.core.receipt import Receipt, Remedy

SiteFolder = Annotated[
    Path, typer.Option("--site", envvar="HANSA_SITE", help="Folder of this site.")
]
_SITE = Path("hansa-site")

_WHAT: dict[Remedy, str] = {
    "retrain-without": "The operator is to run a new federation from the base model without this "
    "merchant; until then its releases go on being served.",
    "roll-back": "The operator is to restore the newest release that does not hold this merchant.",
    "stated-bound": "Nothing is removed: what is known of a shopper stays bounded by epsilon.",
}


def leave(
    remedy: Annotated[
        Remedy, typer.Option(help="What is to be done about releases with your updates.")
    ] = "stated-bound",
    wipe: Annotated[
        bool, typer.Option("--wipe", help="Remove data, models and keys from this site afterwards.")
    ] = False,
    wipe_ledger: Annotated[
        bool, typer.Option("--wipe-ledger", help="With --wipe: remove the ledger, too.")
    ] = False,
    receipt: Annotated[
        Path | None,
        typer.Option(help="File of the receipt; default: hansa-receipt-MERCHANT.json beside."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Write a signed notice for the operator instead.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    site: SiteFolder = _SITE,
) -> None:
    """Leave the federation for good, with a signed receipt of which releases hold your updates.

    An update cannot be taken out of a model. Stop the client first. Run it again after an
    interruption: the receipt is the same.
    """
    from hansa.client import leave as leaving

    place, now = Site(site), dt.datetime.now(dt.UTC)
    merchant = place.settings().merchant
    _check(wipe=wipe, wipe_ledger=wipe_ledger, offline=offline)
    path = receipt or leaving.default_receipt(place, merchant)
    if wipe and path.resolve().is_relative_to(place.path.resolve()):
        raise InvalidInputError(f"{path} would be wiped with the site; keep the receipt elsewhere")
    with sole_user(place.ledger):
        if not yes:
            _confirm(merchant, remedy, wipe=wipe, wipe_ledger=wipe_ledger)
        if offline:
            notice = receipt or leaving.default_notice(place, merchant)
            leaving.write_notice(place, remedy, notice, now)
            typer.echo(
                f"hand {notice} to the operator, who runs: hansa-server take-notice {notice.name} "
                f"--out {path.name}; you are a member until then"
            )
            return
        done = leaving.leave(place, remedy, path, now)
        _show(done.receipt, done.remarks, path)
        if wipe:
            _wipe(place, books=wipe_ledger)


def _check(*, wipe: bool, wipe_ledger: bool, offline: bool) -> None:
    if wipe_ledger and not wipe:
        raise InvalidInputError("--wipe-ledger goes with --wipe")
    if offline and wipe:
        raise InvalidInputError(
            "there is no receipt yet: wait for the operator's, then 'leave --receipt FILE --wipe'"
        )


def _confirm(merchant: str, remedy: Remedy, *, wipe: bool, wipe_ledger: bool) -> None:
    typer.echo(f"{merchant} leaves the federation for good. {_WHAT[remedy]}")
    if wipe:
        typer.echo("Data, models and keys are removed from this site; this is no forensic erasure.")
    if wipe_ledger:
        typer.echo(
            "Without the ledger nobody can tell any more what was spent, and it cannot be reset: a "
            "later membership is refused under this name, and begins under another one."
        )
    if typer.prompt("Type the merchant's name to go on") != merchant:
        raise InvalidInputError("that is not the merchant's name; nothing was done")


def _show(receipt: Receipt, remarks: tuple[str, ...], path: Path) -> None:
    typer.echo(f"{receipt.merchant} left at {receipt.time} ({receipt.remedy}); receipt: {path}")
    for one in receipt.releases:
        until = "now" if one.until is None else one.until
        typer.echo(f"in release {one.version} of {one.channel}, from {one.since} until {until}")
    for run in receipt.runs:
        state = "was not released" if run.ended else "goes on, and may be released"
        typer.echo(f"in run {run.run}, which {state}")
    if not receipt.releases and not receipt.runs:
        typer.echo("no release and no run holds an update of it")
    if receipt.spent is not None and receipt.spent.epsilon is not None:
        spent = receipt.spent
        typer.echo(f"epsilon {spent.epsilon} for each {spent.unit}, at delta {spent.delta:g}")
    for remark in remarks:
        typer.echo(f"note: {remark}")


def _wipe(place: Site, *, books: bool) -> None:
    from hansa.client.wipe import wipe

    for path in wipe(place, books=books):
        typer.echo(f"removed {path}")
    if not books:
        typer.echo(f"kept {place.ledger}: it is needed to join again under this name")
    typer.echo("files were unlinked; disks, snapshots and backups may still hold what was in them")
