"""Results of this device that lie beside a bundle, told from those that came with it.

A bundle travels, and what lies in it is written by whoever had it last. What this user wrote on this machine carries a
MAC (HMAC-SHA256) made with a secret that stays in this user's cache. Everything else is foreign: shown, never used.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from enum import Enum
from pathlib import Path
from typing import TypeVar

from cdm_export.runtimes.bounded_json import MIB, parse_json, read_bounded
from cdm_export.runtimes.cache import cache_dir
from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.lock import file_lock

MAC = "mac"
"""Key of the MAC, at the top of the JSON document that it is of."""
FOREIGN = "from another machine, or written by cdm-export 0.1: not used"
"""What is said of results without a MAC of ours."""
_SECRET = "secret"
_SECRET_BYTES = 32
_LIMIT = 64 * MIB
_Made = TypeVar("_Made", bound=Record)


class Kind(str, Enum):
    """What a MAC is for, so that one kind of record never passes for another."""

    VERDICT = "verdict"
    SPEED = "speed"
    BENCH = "bench"
    ENGINE = "engine"
    EVALUATION = "evaluation"


def signed_text(kind: Kind, record: Record) -> str | None:
    """The record as a JSON document with its MAC; None where no secret can be kept: what is written then is foreign.

    A secret is made at the first call, readable by this user only.
    """
    secret = _secret() or _new_secret()
    if secret is None:
        return None
    data = parse_json(record.model_dump_json())
    return json.dumps({**data, MAC: _mac(secret, kind, data)}, indent=1)


def can_sign() -> bool:
    """Whether there is a secret, or one could be made just now."""
    return (_secret() or _new_secret()) is not None


def read_signed(kind: Kind, path: Path, record: type[_Made]) -> tuple[_Made, bool]:
    """A record, with or without a MAC, and whether it carries ours.

    Raises OSError; ValueError (pydantic's ValidationError is one) for what is no such record.
    """
    data, own = read_document(kind, path)
    return record.model_validate_json(json.dumps(data)), own


def read_document(kind: Kind, path: Path) -> tuple[object, bool]:
    """What the JSON of a file says, without its MAC, and whether that is ours. Raises as ``read_signed``."""
    data = parse_json(read_bounded(path, _LIMIT)[0])
    mac = data.pop(MAC, None) if isinstance(data, dict) else None
    secret = _secret() if isinstance(mac, str) else None
    if not isinstance(mac, str) or secret is None:
        return data, False
    return data, hmac.compare_digest(mac.encode(errors="replace"), _mac(secret, kind, data).encode())


def _mac(secret: bytes, kind: Kind, data: object) -> str:
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hmac.new(secret, f"cdm-export {kind.value}\n{canonical}".encode(), hashlib.sha256).hexdigest()


def _secret() -> bytes | None:
    with contextlib.suppress(OSError, ValueError):
        secret = read_bounded(cache_dir() / _SECRET, _SECRET_BYTES)[0]
        return secret if len(secret) == _SECRET_BYTES else None
    return None


def _new_secret() -> bytes | None:
    """Make one, unless another process was quicker: then it is that one. What was signed with a damaged one before is
    foreign from now on.
    """
    path = cache_dir() / _SECRET
    temporary = path.with_name(f".{_SECRET}.{secrets.token_hex(8)}")
    with contextlib.suppress(OSError), file_lock(path.with_name(f".{_SECRET}.lock"), lambda: None):
        if (made := _secret()) is not None:
            return made
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return _secret()
