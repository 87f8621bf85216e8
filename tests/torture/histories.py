"""Random histories of scoring, and the expected results: the rules of the docs, in Python.

Nothing here calls the product. A `State` does in Python what a nightly job, its backfills and its
failures do, and records who was scored, rejected, seen and confirmed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSIONS = ("1", "2", "10")  # in version order, which differs from text order
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Said:
    """The newest score or rejection of an entity by one version; a higher `run` is newer."""

    as_of: datetime
    run: int
    given: Any
    known_until: datetime
    last_seen: datetime | None = None
    reason: str | None = None


@dataclass
class State:
    """Everything that decides which rows are served and reported. `full_runs`: (version, as_of,
    clock), oldest first.
    """

    champion: str | None = "1"
    versions: tuple[str, ...] = VERSIONS
    scored: dict[tuple[int, str], Said] = field(default_factory=dict)
    rejected: dict[tuple[int, str], Said] = field(default_factory=dict)
    full_runs: list[tuple[str, datetime, datetime]] = field(default_factory=list)
    entities: list[int | None] = field(default_factory=list)

    def copy(self) -> State:
        return replace(
            self,
            scored=dict(self.scored),
            rejected=dict(self.rejected),
            full_runs=list(self.full_runs),
            entities=list(self.entities),
        )

    def is_past(self, clock: datetime) -> bool:
        """Whether a run under that clock is a backfill, which changes nothing that is served."""
        return any(clock < other for _, _, other in self.full_runs)

    def confirmed(self, version: str) -> datetime | None:
        return max((as_of for v, as_of, _ in self.full_runs if v == version), default=None)

    def play(
        self, run: int, clock: datetime, rows: list[tuple[Any, Any, Any]], *, again: bool = False
    ) -> None:
        """Play a full run by the champion over rows of (id, value, moment); `again` makes it a full refresh."""
        version = self.champion
        assert version is not None
        as_of = max((moment for *_, moment in rows if moment), default=clock)
        seen_before = self.confirmed(version)
        present = set()
        for key, value, moment in rows:
            if key is None:
                continue
            slot = key, version
            present.add(slot)
            score, rejection = self.scored.get(slot), self.rejected.get(slot)
            if score and moment and moment < score.known_until:
                continue  # a late row goes to history and is never served
            given, known = (value, moment is None), rejection or score
            if known and known.given == given and not again:
                if score and not rejection:
                    self.scored[slot] = replace(score, known_until=moment)
                continue
            reason = "null_as_of" if moment is None else "null:a" if value is None else None
            at = moment or as_of
            said = Said(at, run, given, at, reason=reason)
            if reason:
                self.rejected[slot] = said
            else:
                self.scored[slot] = said
                self.rejected.pop(slot, None)
        for table in (self.scored, self.rejected):
            for slot, said in table.items():
                if slot in present:
                    table[slot] = replace(said, last_seen=None)
                elif slot[1] == version and said.last_seen is None:
                    table[slot] = replace(said, last_seen=seen_before)
        self.full_runs.append((version, as_of, clock))

    def served(self, *, by_registry: bool) -> Iterator[tuple[int, str, Said]]:
        """Yield (id, version, score) per served entity: by the serving version, else by the newest
        version before it.
        """
        versions = self._served_versions(by_registry=by_registry)
        for key in sorted({key for key, _ in self.scored}):
            for version in versions:
                if (key, version) in self.scored:
                    yield key, version, self.scored[key, version]
                    break

    def _served_versions(self, *, by_registry: bool) -> list[str]:
        """Return the versions that may be served, newest first."""
        if not self.full_runs or (by_registry and self.champion is None):
            return []
        ran = [version for version, _, _ in self.full_runs]
        serving = self.champion if by_registry else ran[-1]
        assert serving is not None
        known = (
            self.versions
            if by_registry
            else [version for version in self.versions if version in ran]
        )
        return [
            v for v in reversed(known) if self.versions.index(v) <= self.versions.index(serving)
        ]

    def fresh_as_of(self, key: int, version: str) -> datetime:
        score, rejection = self.scored[key, version], self.rejected.get((key, version))
        if rejection and rejection.run > score.run:
            return score.as_of
        return max(score.as_of, score.last_seen or self.confirmed(version) or score.as_of)

    def stale(
        self, clock: datetime, warn: timedelta, error: timedelta, *, by_registry: bool
    ) -> list[Row]:
        """Return the rows of `predictions_are_fresh`: (id, problem, model_version, as_of,
        fresh_as_of, age, threshold, severity).
        """
        served = [one for one in self.served(by_registry=by_registry) if one[0] in self.entities]
        found: list[Row] = []
        for key, version, score in served:
            fresh = self.fresh_as_of(key, version)
            age = clock - fresh
            row = (key, "stale", version, score.as_of, fresh, max(age, timedelta(0)))
            if fresh > max(clock, datetime(2099, 1, 1)):
                found.append((key, "future_as_of", *row[2:], None, "error"))
            elif age > error:
                found.append((*row, error, "error"))
            elif age > warn:
                found.append((*row, warn, "warn"))
        if not served:
            problem = "no_predictions" if self.full_runs else "no_successful_run"
            found.append((None, problem, None, None, None, None, None, "error"))
        return found

    def incomplete(self, *, by_registry: bool) -> list[Row]:
        """Return the rows of `predictions_are_complete`: (id, problem, rejected_reason, model_version, as_of)."""
        versions = self._served_versions(by_registry=True) if by_registry else list(self.versions)
        found: list[Row] = []
        for key in set(self.entities):
            scores, rejections = (
                [(said.run, v, said) for v in versions if (said := table.get((key, v)))]
                for table in (self.scored, self.rejected)
            )
            if key is None:
                found.append((None, "null_key", None, None, None))
            elif not scores and rejections:
                _, version, said = max(rejections, key=lambda one: one[0])
                found.append((key, "rejected", said.reason, version, said.as_of))
            elif not scores:
                found.append((key, "missing", None, None, None))
        for key in {key for key, v in self.scored if v in versions} - set(self.entities):
            said = [(s.run, v, s) for v in versions if (s := self.scored.get((key, v)))]
            _, version, newest = max(said, key=lambda one: one[0])
            problem = "no_entity" if self._is_present(key) else "departed"
            found.append((key, problem, None, version, newest.as_of))
        return found

    def _is_present(self, key: int) -> bool:
        """Whether the last full run saw the entity, and so wrote or confirmed a row by its version."""
        slot = key, self.full_runs[-1][0]
        rows = [table[slot] for table in (self.scored, self.rejected) if slot in table]
        return any(said.last_seen is None for said in rows)

    def current(self, clock: datetime, stale_after: timedelta) -> list[Row]:
        """Return the rows of `current_predictions`: (id, model_version, as_of, status, fresh_as_of,
        is_stale, served_from).
        """
        served = {key: version for key, version, _ in self.served(by_registry=True)}
        serving = next(iter(self._served_versions(by_registry=True)), None)
        rows: list[Row] = []
        for key in {key for key in self.entities if key is not None}:
            version = served.get(key)
            rejection = self.rejected.get((key, serving)) if serving else None
            if version is None:
                status = "rejected" if rejection else None
                rows.append((key, None, None, status, None, True, "missing"))
                continue
            score, fresh = self.scored[key, version], self.fresh_as_of(key, version)
            is_own = version == serving
            overruled = rejection and (not is_own or rejection.run > score.run)
            status = "rejected" if overruled else "scored" if is_own else None
            place = "serving_version" if is_own else "earlier_version"
            rows.append(
                (key, version, score.as_of, status, fresh, clock - fresh > stale_after, place)
            )
        return rows
