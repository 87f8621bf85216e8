"""The chain of a scoring model's runs: each run row has its own fingerprint and the previous run's.

It reveals run rows that were altered, doubled or deleted. Somebody who can write to all tables can
compute all fingerprints again; only a copy elsewhere protects against that.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NOT_SEALED = ("fingerprint", "rows_inputs_kept")
"""Columns outside the fingerprint. Kept inputs may be deleted later, so `prove` counts them instead."""


def fingerprint_of(run: Mapping[str, Any]) -> str:
    """Return the sha256 of a run row's values, the fingerprint of the run before included. NULLs are left
    out, so columns that are added later do not change a fingerprint.
    """
    sealed = {
        name: value for name, value in run.items() if value is not None and name not in NOT_SEALED
    }
    text = json.dumps(sealed, default=str, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def faults_of_chain(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    """Yield what is wrong with the run rows of a scoring model as (run_no, fault). `runs` are in any order."""
    counts = Counter(run["run_no"] for run in runs)
    for number, count in sorted(counts.items(), key=lambda item: (item[0] is None, item[0])):
        if count > 1:
            yield number, f"there are {count} run rows with this number"
    ended = [run for run in runs if run["status"] != "running"]
    known = {run["fingerprint"] for run in ended}
    firsts = [run["run_no"] for run in ended if run["previous_fingerprint"] is None]
    for run in ended:
        if run["fingerprint"] != fingerprint_of(run):
            yield run["run_no"], "the run row was altered"
        elif run["previous_fingerprint"] not in known | {None}:
            yield run["run_no"], "the run before it was deleted or altered"
    for number in sorted(firsts)[1:]:
        if counts[number] == 1:
            yield number, "the runs before it were deleted"
