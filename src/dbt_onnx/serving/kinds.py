"""How a publication stores the values of the warehouse, and how a reader gets them back.

A publication stores integers, floats, text and bytes. The kind of a column defines what they stand for:
a timestamp is stored as an integer, for example. The manifest lists the kind of every column, so that
readers in any language can decode the values.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

Stored = int | float | str | bytes | None

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001, the ledger's times are UTC without a zone
_MICROSECOND = timedelta(microseconds=1)
_INTEGER_LIMIT = 2**63
_EXACT = Context(prec=100)  # DuckDB's decimals have 38 digits at most
_VECTORS = {"vector_float32": ("f", 4), "vector_float64": ("d", 8)}


class UnreadableKeyError(ValueError):
    """A part of a key does not fit its column, such as text for a whole number."""


@dataclass(frozen=True)
class Kind:
    """The conversions for the values of a column.

    read     from the stored value, which is not NULL, to Python's value
    store    from Python's value in a key to the stored value. Raises UnreadableKeyError
    parse    from the text of a key, in a URL or a command line, to Python's value. Raises UnreadableKeyError
    """

    read: Callable[[Any], Any]
    store: Callable[[Any], Stored]
    parse: Callable[[str], Any]


def kind_of(name: str) -> Kind:
    """Return the kind with this name, as in a manifest. Raises KeyError if there is none."""
    if scale := re.fullmatch(r"decimal\((\d+)\)", name):
        return _decimal(int(scale[1]))
    return _KINDS[name]


def is_key_kind(name: str) -> bool:
    """Return whether a column of this kind can be part of a key."""
    return name not in _NO_KEYS


def as_json(value: Any) -> Any:
    """Convert a value to JSON's types. Decimals, dates and times become text, and bytes hexadecimal text.

    NaN and infinities become text, since JSON has no number for them.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else _float_name(value)
    if isinstance(value, datetime):
        return value.isoformat() + ("" if value.tzinfo else "Z")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    return value


def _float_name(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _checked(
    kinds: type | tuple[type, ...], store: Callable[[Any], Stored]
) -> Callable[[Any], Stored]:
    """Limit a conversion to values of some types. A bool does not count as a number."""
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)

    def stored(value: Any) -> Stored:
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            names = " or ".join(kind.__name__ for kind in wanted)
            raise UnreadableKeyError(f"{value!r:.80} is not of type {names}")
        try:
            return store(value)
        except (ValueError, OverflowError, InvalidOperation) as error:
            raise UnreadableKeyError(f"{value!r:.80} is out of range") from error

    return stored


def _parsed(parse: Callable[[str], Any], what: str) -> Callable[[str], Any]:
    def value_of(text: str) -> Any:
        try:
            return parse(text)
        except (ValueError, KeyError, OverflowError, InvalidOperation) as error:
            raise UnreadableKeyError(f"{text!r:.80} is not {what}") from error

    return value_of


def _whole_number(text: str) -> int:
    # int() would also accept 1_000, blanks, and the digits of other scripts
    if not re.fullmatch(r"[+-]?[0-9]{1,40}", text):
        raise ValueError(text)
    return int(text)


def _in_64_bits(value: int) -> int:
    if not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        raise OverflowError
    return value


def _as_utf8(value: str) -> str:
    value.encode()  # raises for half of a surrogate pair, which cannot be stored
    return value


def _store_float(value: float) -> Stored:
    number = float(value)
    return "NaN" if math.isnan(number) else number


def _in_utc(moment: datetime) -> datetime:
    """Return the time in UTC, without a zone. A time without a zone is taken as UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _micros(moment: datetime) -> int:
    return (_in_utc(moment) - _EPOCH) // _MICROSECOND


def _parse_moment(text: str) -> datetime:
    return _in_utc(datetime.fromisoformat(text))


def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def _micros_of_day(moment: time) -> int:
    if moment.tzinfo:
        raise ValueError(moment)
    seconds = (moment.hour * 60 + moment.minute) * 60 + moment.second
    return seconds * 1_000_000 + moment.microsecond


def _time_of_day(micros: int) -> time:
    return (_EPOCH + timedelta(microseconds=micros)).time()


def _decimal(scale: int) -> Kind:
    step = Decimal(1).scaleb(-scale)

    def store(value: Decimal | int) -> str:
        exact = Decimal(value)
        rounded = exact.quantize(step, context=_EXACT)
        if rounded != exact:
            raise ValueError(value)
        # as DuckDB writes decimals: with all digits of the scale, and without -0
        return f"{rounded or abs(rounded):f}"

    return Kind(Decimal, _checked((Decimal, int), store), _parsed(Decimal, "a number"))


def _read_vector(name: str) -> Callable[[bytes | str], list[float | None]]:
    code, size = _VECTORS[name]

    def read(stored: bytes | str) -> list[float | None]:
        if isinstance(stored, str):  # a vector with a NULL among its numbers is stored as JSON
            return list(json.loads(stored))
        return list(struct.unpack(f"<{len(stored) // size}{code}", stored))

    return read


def _store_date(value: date) -> str:
    if isinstance(value, datetime):
        raise ValueError(value)  # noqa: TRY004, `_checked` turns it into UnreadableKeyError
    return value.isoformat()


def _no_key(value: Any) -> Stored:
    raise UnreadableKeyError(f"{value!r:.80} cannot be a key")


_BOOLEANS = {"true": True, "false": False}
_KINDS: dict[str, Kind] = {
    "boolean": Kind(bool, _checked(bool, int), _parsed(lambda text: _BOOLEANS[text.lower()], "true or false")),
    "integer": Kind(int, _checked(int, _in_64_bits), _parsed(_whole_number, "a whole number")),
    # more than 64 bits
    "large_integer": Kind(int, _checked(int, str), _parsed(_whole_number, "a whole number")),
    "float": Kind(float, _checked((float, int), _store_float), _parsed(float, "a number")),
    "text": Kind(str, _checked(str, _as_utf8), _parsed(_as_utf8, "valid text")),
    "bytes": Kind(bytes, _checked(bytes, bytes), _parsed(bytes.fromhex, "a hexadecimal number")),
    "date": Kind(date.fromisoformat, _checked(date, _store_date), _parsed(date.fromisoformat, "a date")),
    "time": Kind(_time_of_day, _checked(time, _micros_of_day), _parsed(time.fromisoformat, "a time")),
    "timestamp": Kind(_moment, _checked(datetime, _micros), _parsed(_parse_moment, "a timestamp")),
    "timestamp_tz": Kind(
        lambda micros: _moment(micros).replace(tzinfo=UTC),
        _checked(datetime, _micros),
        _parsed(lambda text: _parse_moment(text).replace(tzinfo=UTC), "a timestamp"),
    ),
    "uuid": Kind(UUID, _checked(UUID, str), _parsed(UUID, "a UUID")),
    # lists, structs and maps as JSON text
    "json": Kind(json.loads, _no_key, _parsed(_no_key, "a key")),
    # little-endian, as in an ONNX file
    **{name: Kind(_read_vector(name), _no_key, _parsed(_no_key, "a key")) for name in _VECTORS},
}  # fmt: skip
_NO_KEYS = {"json", *_VECTORS}
