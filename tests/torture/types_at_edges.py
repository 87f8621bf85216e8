"""Every type that a model can read keeps its values through a run, replay, history and a view."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal, getcontext
from typing import TYPE_CHECKING

import numpy as np
from every_type import INTEGERS, MOMENTS, TYPES, check_type, tensor_types, values_of
from tests.torture.report import Attack
from warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMISE = "No value changes on its way"


def measure(folder: Path, *, every: int, values: int) -> Iterator[Attack]:
    """Check every `every`th type and tensor, as a scalar, a list and an array: with edge values and random `values`."""
    getcontext().prec = 80
    attack = Attack(PROMISE, "values of every type at its edges, and random ones")
    cases = [
        (kind, shape, dtype)
        for kind in TYPES
        for dtype in tensor_types(kind)
        for shape in ("", "[]", "[2]")
    ]
    for number, (kind, shape, dtype) in enumerate(cases[:: max(1, every)]):
        place = folder / str(number)
        place.mkdir(parents=True)
        warehouse = Warehouse(place)
        chosen = [*values_of(kind), *_random(kind, values, seed=number)]
        try:
            check_type(warehouse, kind, shape, dtype, values=list(dict.fromkeys(chosen)))
        except Exception as error:  # noqa: BLE001, any exception counts as harm
            attack.harm.append(
                f"{kind}{shape} as {dtype}: {type(error).__name__}: {str(error)[:300]}"
            )
        attack.made(times=len(chosen))
        warehouse.connection.close()
    yield attack


def _random(kind: str, count: int, *, seed: int) -> list[str]:
    """Return random values as text, small and large alike; none for types that have only a few values."""
    chance = random.Random(seed)
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        return [str(max(low, min(high, _integer(chance)))) for _ in range(count)]
    if kind.startswith("DECIMAL"):
        precision, scale = map(int, kind[8:-1].split(","))
        limit = 10**precision - 1
        return [
            format(Decimal(max(-limit, min(limit, _integer(chance)))).scaleb(-scale), "f")
            for _ in range(count)
        ]
    if kind in {"FLOAT", "DOUBLE"}:
        bits = [chance.getrandbits(32 if kind == "FLOAT" else 64) for _ in range(count)]
        kinds = (np.uint32, np.float32) if kind == "FLOAT" else (np.uint64, np.float64)
        return [str(kinds[0](n).view(kinds[1])) for n in bits]
    if kind in MOMENTS:
        # whole seconds, which every type can hold, in years within the range of nanoseconds
        begin = datetime(1700, 1, 1, tzinfo=UTC)
        moments = [
            begin + timedelta(seconds=chance.randrange(500 * 365 * 86_400)) for _ in range(count)
        ]
        return [
            f"{m:%Y-%m-%d}"
            if kind == "DATE"
            else f"{m:%Y-%m-%d %H:%M:%S}+00"
            if "TZ" in kind or "ZONE" in kind
            else f"{m:%Y-%m-%d %H:%M:%S}"
            for m in moments
        ]
    if kind == "VARCHAR":
        letters = "aA 0,[]{}'\"\\\u00e9\u0301\U0001f986\n\t"
        return ["".join(chance.choices(letters, k=chance.randrange(12))) for _ in range(count)]
    return []


def _integer(chance: random.Random) -> int:
    return chance.choice((-1, 1)) * chance.getrandbits(chance.randrange(1, 128))
