"""Stored zip files with exactly one spelling: the same members are the same bytes, always.

A zip file has many fields that no reader looks at, and any of them could be edited unseen. So what
is read is written again, and must come out as it was. The writer is our own, because that of
the standard library may change with its versions; the form is the one that it has today.

References:
    PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Final

from hansa.core.errors import AuditFailedError, InvalidInputError

_VERSION: Final = 20
_UNIX: Final = 3
_DATE: Final = 0x21  # 1 January 1980, midnight: no time is told
_MODE: Final = 0o644 << 16
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")


def write_archive(members: Mapping[str, bytes]) -> bytes:
    """The archive's bytes; the members are ordered by name, which is ASCII."""
    out, directory = io.BytesIO(), io.BytesIO()
    for name in sorted(members):
        data, offset, text = members[name], out.tell(), name.encode("ascii")
        facts = (0, 0, 0, _DATE, zlib.crc32(data), len(data), len(data), len(text), 0)
        out.write(_LOCAL.pack(b"PK\x03\x04", _VERSION, *facts) + text + data)
        made_by = _VERSION | _UNIX << 8
        head = (b"PK\x01\x02", made_by, _VERSION, *facts)
        directory.write(_CENTRAL.pack(*head, 0, 0, 0, _MODE, offset) + text)
    count, size = len(members), directory.tell()
    end = _END.pack(b"PK\x05\x06", 0, 0, count, count, size, out.tell(), 0)
    return out.getvalue() + directory.getvalue() + end


def read_archive(
    data: bytes, *, is_member: Callable[[str], bool], max_size_bytes: int, max_members: int
) -> dict[str, bytes]:
    """The members of an archive from anybody.

    Args:
        data: the zip file.
        is_member: whether there may be a member of that name.
        max_size_bytes: the archive and the sum of its members may be no larger.
        max_members: it may hold no more members.

    Raises:
        InvalidInputError: the bytes are no zip file, or larger than allowed.
        AuditFailedError: a member is foreign, repeated, compressed or damaged.
    """
    if len(data) > max_size_bytes:
        raise InvalidInputError(f"the audit pack is larger than {max_size_bytes} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            _check_members(infos, is_member, max_size_bytes, max_members)
            members = {info.filename: _content(archive, info) for info in infos}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise InvalidInputError(f"this is not an audit pack: {error}") from error
    return members


def check_spelling(members: Mapping[str, bytes], data: bytes) -> None:
    """Checks that an archive's bytes are those with which ``write_archive`` writes its members.

    Raises:
        AuditFailedError: they are others.
    """
    if write_archive(members) != data:
        raise AuditFailedError("the audit pack's own headers were edited, or it was packed anew")


def _check_members(
    infos: list[zipfile.ZipInfo],
    is_member: Callable[[str], bool],
    max_size_bytes: int,
    max_members: int,
) -> None:
    if len(infos) > max_members:
        raise AuditFailedError(f"the audit pack has {len(infos)} members, more than {max_members}")
    if sum(info.file_size for info in infos) > max_size_bytes:
        raise AuditFailedError(f"the audit pack's members exceed {max_size_bytes} bytes together")
    seen: set[str] = set()
    for info in infos:
        name = info.filename
        if not is_member(name) or info.orig_filename != name:
            raise AuditFailedError(f"{name!r} is not a member that an audit pack may have")
        if name in seen:
            raise AuditFailedError(f"{name} is in the audit pack twice")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise AuditFailedError(f"{name} is compressed; an audit pack is stored as it is")
        seen.add(name)


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise AuditFailedError(f"{info.filename} is damaged: {error}") from error
