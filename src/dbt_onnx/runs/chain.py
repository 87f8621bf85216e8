"""The chain of a scoring model's runs: each run row has a fingerprint of itself and of the run before.

So a run row that was altered, doubled or deleted is found. Who can write everything can compute all
fingerprints anew; against that only a copy elsewhere helps.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NOT_SEALED = ("fingerprint", "rows_inputs_kept")
"""Kept inputs may be deleted in time; `prove` counts them."""


def fingerprint_of(run: Mapping[str, Any]) -> str:
    """sha256 of what a run row says, the fingerprint of the run before included. A NULL counts as
    nothing, so columns that are added later change no fingerprint.
    """
    sealed = {
        name: value for name, value in run.items() if value is not None and name not in NOT_SEALED
    }
    text = json.dumps(sealed, default=str, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def faults_of_chain(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    """What is wrong with the run rows of a scoring model, in any order: (run_no, what it is)."""
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
