"""The gate that a version passes before it becomes champion: checks, figures, limits, verdicts.

The gate checks the version's file and card, its outputs for the current features, and how far they
differ from the champion's outputs for the same entities. Nothing in this module writes anything.

If a version cannot be compared with the champion, the check `comparison with ...` fails. A user can
override it with a reason. If there is no champion yet, there is nothing to compare with, and the
promotion is recorded as `not_compared`.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Literal

from dbt_onnx.artifacts.verification import verify_sample
from dbt_onnx.promotion.compare import ColumnComparison, compare_columns, count_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import RegistryEntry
    from dbt_onnx.errors import DbtOnnxError
    from dbt_onnx.kernel.contract import Contract, OutputKind
    from dbt_onnx.promotion.answers import Answers

Verdict = Literal["passed", "failed", "not checked"]

IF_INTENDED = "if it is intended, promote with --override 'reason'"
CHECK_DIFFERENCE = f"check the difference; {IF_INTENDED}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of the gate. Shares are between 0 and 1; `sample` is a number of rows."""

    min_rank_correlation: float = 0.8
    max_changed_decisions: float = 0.1
    max_rejected: float = 0.1
    threshold: float = 0.5
    sample: int = 100_000


@dataclass(frozen=True)
class Check:
    """One row of the gate's table. `fault` and `hint` are empty unless the verdict is failed.

    A failed check that is `final` cannot be overridden, since every run would refuse the version, too.
    """

    name: str
    figure: str
    limit: str
    verdict: Verdict
    _: KW_ONLY
    fault: str = ""
    hint: str = ""
    final: bool = False


def failed(name: str, limit: str, error: DbtOnnxError, *, final: bool = False) -> Check:
    """Return a failed check that reports an error."""
    figure = f"{error.kind} error"
    return Check(name, figure, limit, "failed", fault=error.message, hint=error.hint, final=final)


def not_compared(champion: str | None, why: str, *, hint: str = "") -> Check:
    """Return the check which reports that nothing was compared: failed if there is a champion, else not checked."""
    if champion is None:
        return Check("comparison", why, "", "not checked")
    return Check(
        f"comparison with {champion}",
        "nothing compared",
        "both score",
        "failed",
        fault=f"nothing was compared with the champion {champion}: {why}",
        hint=f"{hint}; or promote with --override 'reason'" if hint else CHECK_DIFFERENCE,
    )


def check_card(artifact: Artifact, entry: RegistryEntry) -> list[Check]:
    """Check that the model still gives the outputs in its card's sample; report the parity of its export."""
    verdict = verify_sample(artifact, entry)
    parity = artifact.card.get("parity") or {}
    tolerance = parity.get("tolerance", "")
    within = f"{tolerance:g}" if isinstance(tolerance, int | float) else ""
    apart = verdict.max_abs_difference
    sample = Check(
        "sample of the card",
        "no sample" if apart is None else f"{verdict.sample_rows} rows, difference {apart:.1e}",
        within,
        "failed" if verdict.fault else "not checked" if apart is None else "passed",
        fault=verdict.fault or "",
        hint=verdict.hint or "",
    )
    rows, largest = parity.get("rows_compared"), parity.get("max_abs_difference")
    # `export` refuses a model that exceeds the tolerance, so a recorded parity has passed
    if isinstance(rows, int) and isinstance(largest, int | float):
        figure = f"{rows:,} rows, difference {largest:.1e}"
        return [sample, Check("training parity", figure, within, "passed")]
    return [sample, Check("training parity", "none recorded", "", "not checked")]


def check_answers(
    new: Answers, old: Answers | None, contract: Contract, limits: Limits, *, where: str
) -> Iterator[Check]:
    """Check that the version's outputs can be served: few rejected rows, finite values that vary.

    `contract` is the version's. `where` names the rows in messages.
    """
    before = "" if old is None else f", champion {old.rejected:.2%}"
    reasons = ", ".join(f"{name} {n:,}" for name, n in new.rejected_reasons.most_common(3))
    broken = sum(
        count
        for reason, count in new.rejected_reasons.items()
        if reason.startswith(("nan_output:", "infinite_output:"))
    )
    yield _check(
        "rejected rows",
        f"{new.rejected:.2%} of {new.rows:,}{before}",
        f"at most {limits.max_rejected:.2%}",
        is_wrong=new.rejected > limits.max_rejected,
        fault=f"{new.rejected_reasons.total():,} of {new.rows:,} rows of {where} would be "
        f"rejected: {reasons}",
        hint="fix the features upstream, register a version that accepts NULL (a null policy or a "
        "fill), or raise --max-rejected, and max_rejected_fraction in score()",
    )
    yield _check(
        "NaN or infinite",
        f"{broken:,} rows",
        "none",
        is_wrong=broken > 0,
        fault=f"the model gives NaN or infinity for {broken:,} of {new.rows:,} rows of {where}: "
        f"{reasons}",
        hint=f"fix the model's formula, for example a division by zero; {IF_INTENDED}",
    )
    yield from _check_varying(new, contract.column_kinds, where=where)


def check_comparison(
    new: Answers, old: Answers, contract: Contract, limits: Limits, *, champion: str
) -> Iterator[Check]:
    """Check that the version's outputs are close to the champion's on the same rows, within the limits.

    `contract` is the version's.
    """
    kinds = contract.column_kinds
    compared = compare_columns(new.columns, old.columns, kinds, threshold=limits.threshold)
    gone = [column for column in old.columns if column not in new.columns]
    yield _check(
        "output columns",
        ", ".join(new.columns),
        f"all of {champion}",
        is_wrong=bool(gone),
        fault=f"{champion} gives {', '.join(gone)}, and this version does not: readers of "
        "these columns would get NULL",
        hint=f"name its outputs as before when exporting or registering it; {IF_INTENDED}",
    )
    figures = [
        check
        for item in compared
        for check in _check_column(item, kinds[item.column], limits, champion=champion)
    ]
    if all(check.verdict == "not checked" for check in figures):
        figures.append(not_compared(champion, _why_incomparable(new, old, compared)))
    yield from figures


def _why_incomparable(new: Answers, old: Answers, compared: Sequence[ColumnComparison]) -> str:
    if not compared:
        return "the versions have no number or label column in common"
    if all(item.rows < 2 for item in compared):
        return (
            "fewer than two rows are scored by both versions: this version scores "
            f"{new.rows_scored:,}, the champion {old.rows_scored:,}"
        )
    return "one version gives the same value for every row"


def _check_column(
    item: ColumnComparison, kind: OutputKind, limits: Limits, *, champion: str
) -> Iterator[Check]:
    is_label = kind == "label"
    if not is_label:
        rho, least = item.rank_correlation, limits.min_rank_correlation
        figure = correlation = "not defined" if rho is None else f"{rho:.3f}"
        if item.mean is not None and item.mean_before is not None:
            difference = item.mean - item.mean_before
            figure += f"; mean {item.mean:.4g}, was {item.mean_before:.4g} ({difference:+.4g})"
        yield _check(
            f"rank correlation: {item.column}",
            figure,
            f"at least {least:g}",
            is_wrong=rho is not None and rho < least,
            fault=f"{item.column} ranks {item.rows:,} rows differently from {champion}: "
            f"Spearman's correlation is {correlation}",
            hint=f"{CHECK_DIFFERENCE}, or lower --min-rank-correlation",
            checked=rho is not None,
        )
    if is_label or item.changed is not None:
        cut = "" if is_label else f" at {limits.threshold:g}"
        most, changed = limits.max_changed_decisions, item.changed
        share = "no rows" if changed is None else f"{changed:.2%}"
        yield _check(
            f"changed decisions: {item.column}{cut}",
            share,
            f"at most {most:.2%}",
            is_wrong=changed is not None and changed > most,
            fault=f"{item.column}{cut} decides {share} of {item.rows:,} rows differently from "
            f"{champion}",
            hint=f"{CHECK_DIFFERENCE}, or raise --max-changed-decisions",
            checked=changed is not None,
        )


def _check_varying(new: Answers, kinds: Mapping[str, OutputKind], *, where: str) -> Iterator[Check]:
    """Check that each output has more than one value. Labels are checked only if no other output exists."""
    telling = [column for column in new.columns if kinds[column] != "label"] or list(new.columns)
    enough = new.rows_scored > 1
    for column in telling:
        values = count_values(new.columns[column])
        yield _check(
            f"varies: {column}",
            f"{values:,} value" + ("" if values == 1 else "s"),
            "more than one",
            is_wrong=enough and values < 2,
            fault=f"{column} is the same for all {new.rows_scored:,} rows of {where}",
            hint=f"look for features that are constant, or differ from those of training; {IF_INTENDED}",
            checked=enough,
        )


def _check(
    name: str,
    figure: str,
    limit: str,
    *,
    is_wrong: bool,
    fault: str,
    hint: str,
    checked: bool = True,
) -> Check:
    if is_wrong:
        return Check(name, figure, limit, "failed", fault=fault, hint=hint)
    return Check(name, figure, limit, "passed" if checked else "not checked")
