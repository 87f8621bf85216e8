"""Nulls never become scores: on a table of odd values, each row's outcome equals that of independent SQL."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from tests.torture.report import Attack
from warehouse import Warehouse, line_contract

from dbt_onnx.kernel.contract import Feature

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMISE = "Nulls never become scores"
ODD = ("null", "'nan'", "'inf'", "'-inf'", "1e39", "-1e300", "0.1", "0", "-0.0", "7")
POLICIES = ("reject", "nan", "fill")


def measure(folder: Path, *, rows: int) -> Iterator[Attack]:
    """Check every pair of odd values under every pair of policies, and `rows` random rows."""
    table, random_rows = Attack(PROMISE, "values x policies"), Attack(PROMISE, "random rows")
    pairs = " union all ".join(
        f"select {number} as id, {a}::double as a, {b}::double as b"
        for number, (a, b) in enumerate(product(ODD, ODD))
    )
    value = (
        "case (hash(i, {0}) >> 20) % 12 "
        + " ".join(f"when {n} then {odd}::double" for n, odd in enumerate(ODD))
        + " else (hash(i, {0}) % 20001 - 10000.0) / 100 end"
    )
    many = f"select i::integer as id, {value.format(1)} as a, {value.format(2)} as b from range({rows}) as r(i)"
    for number, policies in enumerate(product(POLICIES, POLICIES)):
        _check(folder / f"pairs {number}", pairs, policies, table)
    _check(folder / "random", many, ("reject", "fill"), random_rows)
    yield from (table, random_rows)


def _feature(name: str, policy: str) -> Feature:
    return Feature(name=name, null_policy=policy, fill=3.0 if policy == "fill" else None)  # type: ignore[arg-type]


def _reason(name: str, policy: str) -> str:
    """SQL of the documented rule: NULL by the policy, NaN rejected unless allowed, infinities always rejected."""
    nan = "" if policy == "nan" else f"when isnan({name}) then 'nan:{name}'"
    null = (
        f"when {name} is null then 'null:{name}'"
        if policy == "reject"
        else f"when {name} is null then null"
    )
    return (
        f"case {null} {nan} when isinf({name}) then 'infinite:{name}' "
        f"when not isnan({name}) and abs({name}) > 3.4028235677973366e38 then 'lossy_cast:{name}' end"
    )


def _check(folder: Path, features: str, policies: tuple[str, str], attack: Attack) -> None:
    folder.mkdir(parents=True)
    warehouse = Warehouse(folder)
    pair = tuple(_feature(name, policy) for name, policy in zip("ab", policies, strict=True))
    warehouse.register("1", contract=replace(line_contract(), features=pair))
    warehouse.sql(f"create or replace table features as {features}")
    summary = warehouse.run()
    reasons = f"coalesce({_reason('a', policies[0])}, {_reason('b', policies[1])})"
    filled = [
        f"coalesce({name}, {3.0 if policy == 'fill' else chr(39) + 'nan' + chr(39)}::double)"
        for name, policy in zip("ab", policies, strict=True)
    ]
    expected = f"2 * {filled[0]}::float::double - {filled[1]}::float::double + 0.5"
    wrong = warehouse.sql(
        f"""
        with judged as (
            select id, a, b, {reasons} as early, case when early is null then {expected} end as y
            from features
        ),
        ruled as (
            select *, coalesce(early, case when isnan(y) then 'nan_output:y'
                when abs(y) > 3.4028235677973366e38 then 'infinite_output:y' end) as reason
            from judged
        )
        select ruled.id, ruled.a, ruled.b, reason, scores.rejected_reason, ruled.y, scores.y
        from ruled full join scores using (id)
        where reason is distinct from scores.rejected_reason
            or (scores.y is null) <> (reason is not null)
            or (scores.status = 'rejected') <> (reason is not null)
            or abs(scores.y - ruled.y) > 1e-5 * greatest(1, abs(ruled.y))
            or scores.status is null
        """
    )
    [(rows,)] = warehouse.sql("select count(*) from features")
    attack.made(times=rows)
    attack.harm += [f"{policies}: {row}" for row in wrong]
    if summary.rows_in != summary.rows_scored + summary.rows_rejected + summary.rows_unchanged:
        attack.harm.append(f"{policies}: {summary} does not balance")
    warehouse.connection.close()
