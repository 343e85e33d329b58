"""One byte string for one meaning: canonical JSON and its digest.

References:
    RFC 8785, JSON Canonicalization Scheme.
"""

import hashlib
import json
from typing import Any

import rfc8785

from hansa.core.errors import InvalidInputError
from hansa.core.ids import Sha256


def canonical_json(value: Any) -> bytes:
    """The RFC 8785 form of a JSON value.

    Raises:
        InvalidInputError: the value is not JSON (NaN, infinity, an integer beyond 2^53, a foreign
            type).
    """
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise InvalidInputError(f"this value has no canonical JSON form: {error}") from error


def parse_json(data: bytes, what: str) -> Any:
    """The value of UTF-8 JSON bytes; ``what`` names them in the error.

    Raises:
        InvalidInputError: the bytes are not UTF-8 JSON, or nest too deeply.
    """
    try:
        return json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{what} is not JSON: {error}") from error


def sha256_hex(data: bytes) -> Sha256:
    """The SHA-256 digest of some bytes in lower-case hexadecimal."""
    return Sha256(hashlib.sha256(data).hexdigest())


def digest(value: Any) -> Sha256:
    """The SHA-256 digest of a JSON value's canonical form."""
    return sha256_hex(canonical_json(value))
