"""The document `publications.json`: the publications of one name, which of them is served, and since when.

The file is always replaced as a whole. Its content is validated before use: an id from it cannot make a reader
open a file outside the folder.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.base import STAMPS
from dbt_onnx.errors import ServingError
from dbt_onnx.serving.kinds import is_key_kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FORMAT = 1
POINTER = "publications.json"
MODELS = "models"
KEPT = 3
_SWITCHES_KEPT = 100
_MOMENT = "timestamp"
_MAX_BYTES = 16 * 2**20
_ID = re.compile(r"[0-9]{8}T[0-9]{12}Z-[0-9a-f]{8}")
UNREADABLE = (
    ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""The exceptions that parsing a damaged document can raise."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True)
class Column:
    """The name and the kind of a publication's column; for kinds, see `kinds`."""

    name: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The model version that scores on request. Its files are in the publication's folder `models`.

    `artifact` is the path of the model file below `models`. `features` are the model's columns in the warehouse,
    with Arrow types as kinds.
    """

    model_name: str
    model_version: str
    artifact: str
    sha256: str
    card_sha256: str
    features: tuple[Column, ...]

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ServedModel:
        names = [item.name for item in fields(cls) if item.name != "features"]
        values = {name: str(document[name]) for name in names}
        return cls(**values, features=_columns(document["features"]))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of one publication.

    id            the time of publication, and eight random hexadecimal digits
    key, outputs  the key columns, and the columns that are served as outputs
    stamps        the columns of `current_predictions` that the publication has, such as run, version and times
    model         the version that scores on request; None if publish() names none
    stale_after   seconds after which an answer is stale; None for never
    rows          number of rows; `rows_changed` and `rows_removed` compare with the previous publication
    served        number of rows by model, version, `served_from` and status
    run_id        dbt's id of the run that published
    clock         the project's clock in that run, UTC; the `fresh_as_of` of rows without that column
    bytes         its size; `sha256` is that of its file, None if the target is a server
    """

    id: str
    name: str
    key: tuple[Column, ...]
    outputs: tuple[Column, ...]
    stamps: tuple[Column, ...]
    model: ServedModel | None
    stale_after: float | None
    relation: str
    run_id: str
    rows: int
    rows_changed: int
    rows_removed: int
    served: tuple[Mapping[str, Any], ...]
    clock: datetime
    published_at: datetime
    sha256: str | None
    bytes: int

    @property
    def file_name(self) -> str:
        return file_name(self.id)

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "clock": self.clock.isoformat(),
            "published_at": self.published_at.isoformat(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Manifest:
        """Read a manifest. Raises ValueError, KeyError or TypeError if the document is not valid."""
        values = {item.name: document[item.name] for item in fields(cls)}
        for name in ("key", "outputs", "stamps"):
            values[name] = _columns(values[name])
            for column in values[name]:
                kind_of(column.kind)
        if values["model"] is not None:
            values["model"] = ServedModel.from_dict(values["model"])
        if not values["key"] or not all(is_key_kind(column.kind) for column in values["key"]):
            raise ValueError("its key is empty, or has a column of a kind that cannot be a key")
        names = [c.name for part in ("key", "outputs", "stamps") for c in values[part]]
        if len(set(names)) < len(names):
            raise ValueError("two of its columns have the same name")
        stamps = {column.name: column.kind for column in values["stamps"]}
        if not set(stamps) <= set(STAMPS) or stamps.get("fresh_as_of", _MOMENT) != _MOMENT:
            raise ValueError("it has an unknown stamp column, or `fresh_as_of` is not a timestamp")
        for name in ("id", "name", "relation", "run_id"):
            if not isinstance(values[name], str):
                raise TypeError(f"its {name} is not a string")
        for name in ("clock", "published_at"):
            values[name] = _utc(values[name])
        for name in ("rows", "rows_changed", "rows_removed", "bytes"):
            values[name] = int(values[name])
        digest = values["sha256"]
        if not _ID.fullmatch(values["id"]) or not (
            digest is None or re.fullmatch(r"[0-9a-f]{64}", digest)
        ):
            raise ValueError("its id or sha256 is malformed")
        values["served"] = tuple(dict(row) for row in values["served"])
        if values["stale_after"] is not None:
            timedelta(seconds=values["stale_after"])
        return cls(**values)


def _columns(documents: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    return tuple(Column(str(column["name"]), str(column["kind"])) for column in documents)


@dataclass(frozen=True)
class Switch:
    """One switch of readers: from `at` on, UTC, they are served `publication`.

    `why` is "published", or "unpublished" if a later publication was taken back. The numbers of a name's switches
    increase by one.
    """

    number: int
    publication: str
    at: datetime
    why: str


@dataclass(frozen=True, kw_only=True)
class Publications:
    """The content of `publications.json`. `publications` has the oldest first, and is empty before the first."""

    name: str
    current: str | None = None
    publications: tuple[Manifest, ...] = ()
    switches: tuple[Switch, ...] = ()

    @property
    def served(self) -> Manifest:
        return next(manifest for manifest in self.publications if manifest.id == self.current)

    @property
    def to_try(self) -> list[Manifest]:
        """The served publication and those before it, newest first. A reader uses the first undamaged one."""
        ids = [None, *(manifest.id for manifest in self.publications)]
        return list(reversed(self.publications[: ids.index(self.current)]))

    def published(self, manifest: Manifest, *, at: datetime) -> Publications:
        """Add a publication, and serve it from now on. Only the last three publications are kept."""
        # `to_try` leaves out publications that were unpublished
        kept = [*reversed(self.to_try), manifest][-KEPT:]
        return replace(
            self, publications=tuple(kept), **self._switched(manifest.id, at, "published")
        )

    def unpublished(self, *, at: datetime) -> Publications:
        """Serve the previous publication again. Raises ServingError if there is none left."""
        _, *before = self.to_try
        if not before:
            raise ServingError(
                f"there is no earlier publication of {self.name!r} to return to: {self.current} is the "
                "oldest that is kept",
                hint="correct the rows, and publish them with `dbt build`",
            )
        return replace(self, **self._switched(before[0].id, at, "unpublished"))

    def _switched(self, publication: str, at: datetime, why: str) -> dict[str, Any]:
        number = self.switches[-1].number + 1 if self.switches else 1
        switch = Switch(number, publication, at, why)
        return {"current": publication, "switches": (*self.switches, switch)[-_SWITCHES_KEPT:]}

    def content(self) -> bytes:
        document = {
            "format": FORMAT,
            "name": self.name,
            "current": self.current,
            "publications": [manifest.to_dict() for manifest in self.publications],
            "switches": [{**asdict(s), "at": s.at.isoformat()} for s in self.switches],
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def from_content(cls, content: bytes) -> Publications:
        """Read the content of `publications.json`. Raises one of `UNREADABLE` if it is not valid."""
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}; this dbt_onnx reads {FORMAT}")
        found = cls(
            name=str(document["name"]),
            current=document["current"],
            publications=tuple(Manifest.from_dict(m) for m in document["publications"]),
            switches=tuple(
                Switch(int(s["number"]), str(s["publication"]), _utc(s["at"]), str(s["why"]))
                for s in document["switches"]
            ),
        )
        if found.current not in [manifest.id for manifest in found.publications]:
            raise ValueError(f"it points to {found.current!r:.80}, which it does not list")
        return found


def _utc(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        raise ValueError(f"{text} has a time zone; times must be UTC, without a zone")
    return moment


def is_publication_name(name: object) -> bool:
    """Return whether a publication can have this name, which is used as a folder's name and in URLs."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def file_name(publication: str) -> str:
    """Return the file name of the publication with this id."""
    return f"{publication}.sqlite"


def read_publications(folder: Path) -> Publications:
    """Read publications.json. Raises ServingError if it does not exist or cannot be read."""
    path = folder / POINTER
    try:
        return Publications.from_content(_content_of(path))
    except FileNotFoundError as error:
        raise no_publication(f"in {folder}") from error
    except UNREADABLE as error:
        raise ServingError(
            f"{path} cannot be read: {type(error).__name__}: {error}",
            hint="restore it from a backup, or remove the folder and publish again",
        ) from error


def no_publication(where: str) -> ServingError:
    """Return the error for a place without publications."""
    return ServingError(
        f"there is no publication {where}",
        hint="`dbt build` publishes with a model that returns dbt_onnx.publish(...); "
        "`dbt-onnx published` lists the publications",
    )


def _content_of(path: Path) -> bytes:
    # opening a named pipe would block
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
    return content
