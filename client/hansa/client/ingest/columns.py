"""Which column of an export holds which of our fields."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hansa.core.errors import InvalidInputError

Source = Literal["catalogue", "events"]

FIELDS: Mapping[Source, tuple[str, ...]] = {
    "catalogue": (
        "item_id",
        "title",
        "description",
        "brand",
        "category_path",
        "price",
        "currency",
        "available",
    ),
    "events": (
        "shopper_id",
        "time",
        "kind",
        "item_id",
        "query",
        "session_id",
        "quantity",
        "price",
    ),
}
REQUIRED: Mapping[Source, tuple[str, ...]] = {
    "catalogue": ("item_id", "title"),
    "events": ("shopper_id", "time", "kind", "item_id"),
}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of one export, by the field that each holds."""

    source: Source
    by_field: Mapping[str, str]
    """Our field to their column; optional fields that the export lacks are absent."""
    found: tuple[str, ...]
    """Every column of the export, used or not."""


def parse_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """The mapping of the command line's ``ours=theirs`` words.

    ``ours`` is a field, or ``catalogue.field`` / ``events.field`` where the two files differ.

    Raises:
        InvalidInputError: a word has no ``=``, names an unknown field, or repeats one.
    """
    mapping: dict[str, str] = {}
    for pair in pairs:
        ours, separator, theirs = pair.partition("=")
        if not separator or not theirs or ours in mapping:
            raise InvalidInputError(f"write --map as ours=theirs, each field once; not '{pair}'")
        mapping[ours] = theirs
    check_mapping(mapping)
    return mapping


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Refuses a mapping of fields that Hansa does not have.

    Raises:
        InvalidInputError: a field is unknown.
    """
    plain = {field for fields in FIELDS.values() for field in fields}
    known = plain | {f"{source}.{field}" for source, fields in FIELDS.items() for field in fields}
    if unknown := sorted(set(mapping) - known):
        raise InvalidInputError(
            f"the mapping names the unknown field {unknown[0]}; choose among {_list(sorted(plain))}"
        )


def resolve_columns(source: Source, found: Sequence[str], mapping: Mapping[str, str]) -> Columns:
    """The columns of an export, after the mapping.

    A mapping for one file (``events.price``) must be met by that file; a plain one (``price``) may
    be met by either, and the file without such a column falls back to the field's own name.

    Raises:
        InvalidInputError: a required column is missing, or a column name stands there twice.
    """
    _refuse_repeats(source, found)
    by_field: dict[str, str] = {}
    for field in FIELDS[source]:
        special = mapping.get(f"{source}.{field}")
        wanted = special or mapping.get(field, field)
        column = wanted if wanted in found else field
        if column in found and (special is None or column == special):
            by_field[field] = column
        elif special is not None or field in REQUIRED[source]:
            raise InvalidInputError(_missing(source, wanted, field, found))
    return Columns(source=source, by_field=by_field, found=tuple(found))


def refuse_unused(mapping: Mapping[str, str], files: Iterable[Columns]) -> None:
    """Refuses a mapping to a column that neither file has, which is most often a misspelling.

    Raises:
        InvalidInputError: no file has the column.
    """
    found = {column for columns in files for column in columns.found}
    for ours, theirs in mapping.items():
        if theirs not in found:
            raise InvalidInputError(
                f"--map {ours}={theirs}: neither file has the column '{theirs}'; "
                f"the columns are {_list(sorted(found))}"
            )


def _refuse_repeats(source: Source, found: Sequence[str]) -> None:
    for column in found:
        if found.count(column) > 1:
            raise InvalidInputError(
                f"the {source} file has the column '{column}' more than once; rename one of them"
            )


def _missing(source: Source, wanted: str, field: str, found: Sequence[str]) -> str:
    return (
        f"the {source} file has no column '{wanted}' for the field {field}: "
        f"expected {_list(REQUIRED[source])} and optionally "
        f"{_list([name for name in FIELDS[source] if name not in REQUIRED[source]])}, "
        f"found {_list(found)}; rename the column or pass --map {field}=THEIRS"
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(name[:60] for name in names[:40]) or "none"
