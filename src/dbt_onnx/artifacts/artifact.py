"""A registered model file and its card, read once and checked before the model runs.

The order of the checks matters: first the file's path and type, then its sha256 (a corrupt file may
score without an error), hostile constructs, and last the card against the registry and the graph.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.agreement import check_contract
from dbt_onnx.artifacts.card import CARD_NAME, card_of, digest, render_card, replace_file
from dbt_onnx.artifacts.registry import ModelVersion, RegistryEntry, name_faults, path_faults
from dbt_onnx.errors import ArtifactError, ConfigError, ContractError
from dbt_onnx.kernel.contract import Contract
from dbt_onnx.kernel.native import MAX_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dbt_onnx.artifacts.graph import GraphSignature
    from dbt_onnx.kernel.child_session import ChildSession
    from dbt_onnx.kernel.session import OnnxSession


MAX_MODEL_BYTES = 2**31
MAX_CARD_BYTES = 2**26
_OPENS_IN_FOLDERS = {os.open, os.stat} <= os.supports_dir_fd  # false on Windows


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A verified model.

    The sha256 of `model_bytes` is the one in the registry. `card_sha256` is the digest of the card
    that was read, even if the registry has none.
    """

    model_name: str
    model_version: str
    path: Path
    model_bytes: bytes = field(repr=False)
    sha256: str
    card_sha256: str
    card: Mapping[str, Any] = field(repr=False)
    contract: Contract
    signature: GraphSignature

    @property
    def model(self) -> ModelVersion:
        return ModelVersion(self.model_name, self.model_version)

    @property
    def scoring_bytes(self) -> bytes:
        """The bytes that onnxruntime loads: `model_bytes` without ZipMaps, see `without_zipmaps`."""
        if all(tensor.kind != "map_sequence" for tensor in self.signature.outputs):
            return self.model_bytes
        from dbt_onnx.artifacts.graph import without_zipmaps

        classes = {output.name: output.classes or () for output in self.contract.outputs}
        return without_zipmaps(self.model_bytes, classes)

    def open(
        self,
        *,
        threads: int | None = 1,
        batch_rows: int | None = None,
        in_child_process: bool = False,
        max_seconds: float = MAX_SECONDS,
    ) -> OnnxSession | ChildSession:
        """Open a session, see `open_session`. A batch size that the graph fixes overrides `batch_rows`."""
        # imported only where something is scored, with numpy
        from dbt_onnx.kernel.child_session import open_session

        return open_session(
            self.scoring_bytes,
            self.contract,
            threads=threads,
            batch_rows=self.signature.batch_rows or batch_rows,
            in_child_process=in_child_process,
            max_seconds=max_seconds,
        )


def load_artifact(root: Path, entry: RegistryEntry) -> Artifact:
    """Read and check the model of a registry entry below `root`, the artifacts directory.

    Raises ArtifactError if the file or its card is missing, altered, hostile, unreadable or
    reached through a symbolic link; ContractError if card and graph disagree.
    """
    # imported only where a graph is read, with onnx
    from dbt_onnx.artifacts.graph import read_graph

    path = root / entry.artifact
    model_bytes = read_below(root, entry.artifact, max_bytes=MAX_MODEL_BYTES)
    _check_sha256(model_bytes, entry, path)
    signature = read_graph(model_bytes, where=str(path))
    card_path = path.parent / CARD_NAME
    card_text = read_card(root, entry)
    card = card_of(entry, card_text, where=str(card_path))
    try:
        contract = Contract.from_dict(card["contract"])
    except ContractError as error:
        raise ContractError(f"{card_path}: {error.message}", hint=error.hint) from error
    check_contract(contract, signature, where=str(path))
    return Artifact(
        model_name=entry.model_name,
        model_version=entry.model_version,
        path=path,
        model_bytes=model_bytes,
        sha256=entry.sha256,
        card_sha256=digest(card_text),
        card=card,
        contract=contract,
        signature=signature,
    )


def fingerprint_on_disk(root: Path, entry: RegistryEntry) -> str:
    """Read a version's files and return its text from `fingerprint_of`, with the digests of the files on disk.

    Raises ArtifactError if the model file or its card cannot be read.
    """
    model_bytes = read_below(root, entry.artifact, max_bytes=MAX_MODEL_BYTES)
    return fingerprint_of(
        entry, hashlib.sha256(model_bytes).hexdigest(), digest(read_card(root, entry))
    )


def fingerprint_of(entry: RegistryEntry, sha256: str, card_sha256: str) -> str:
    """Return a text that identifies a version and the content of its files, as a key for cached checks."""
    return f"{entry!r} {sha256} {card_sha256}"


def read_card(root: Path, entry: RegistryEntry) -> bytes:
    """Return the unchecked bytes of the card next to a model file. Raises ArtifactError as `read_below` does."""
    return read_below(root, entry.sibling_path(CARD_NAME), max_bytes=MAX_CARD_BYTES)


def read_below(root: Path, relative: str, *, max_bytes: int) -> bytes:
    """Read one regular file below `root` without following symbolic links. `relative` is untrusted.

    A hard link cannot be told from an ordinary file: only the sha256 shows whether its content may be
    used. Raises ArtifactError if the path is unsafe, or the file is missing, too large or unreadable.
    """
    if faults := path_faults(relative):
        raise ArtifactError(
            f"the path is not safe: {'; '.join(faults)}",
            hint=f"give a path below {root}, such as 'churn/1/model.onnx'",
        )
    place, folder = root, None
    with ExitStack() as opened:
        try:
            for part in relative.split("/"):
                # each folder is opened relative to its parent, which is open already, so that nobody
                # can replace it with a link between the check and the read
                if _OPENS_IN_FOLDERS:
                    folder = _open_folder(place, within=folder)
                    opened.callback(os.close, folder)
                place = place / part
                if stat.S_ISLNK(os.lstat(_within(place, folder), dir_fd=folder).st_mode):
                    raise ArtifactError(
                        f"{place} is a symbolic link; symbolic links are not allowed below {root}",
                        hint="put the file itself there",
                    )
            return _read_regular(place, within=folder, max_bytes=max_bytes)
        except (FileNotFoundError, NotADirectoryError) as error:
            is_missing = isinstance(error, FileNotFoundError) and place != root / relative
            raise ArtifactError(
                f"{root / relative} does not exist" + (f" ({place} is missing)" * is_missing),
                hint="restore it from version control (a file in Git LFS needs `git lfs pull`), "
                "or register the model again with `dbt-onnx register`",
            ) from error
        except OSError as error:
            raise ArtifactError(
                f"{place} cannot be read: {error.strerror or error}",
                hint="give the user who runs dbt the right to read it",
            ) from error


def _within(path: Path, folder: int | None) -> str | Path:
    return path if folder is None else path.name


def _open_folder(path: Path, *, within: int | None) -> int:
    """Open a folder. If `within` is an open folder, look the name up there and refuse a symbolic link."""
    flags = os.O_DIRECTORY | getattr(os, "O_PATH", 0) | (0 if within is None else os.O_NOFOLLOW)
    return os.open(_within(path, within), os.O_RDONLY | flags, dir_fd=within)


def _read_regular(path: Path, *, within: int | None, max_bytes: int) -> bytes:
    # do not follow a link that was created after the check, and do not wait for the writer of a named pipe
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(_within(path, within), os.O_RDONLY | flags, dir_fd=within)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ArtifactError(
                f"{path} is {what}", hint="name the file itself, such as 'churn/1/model.onnx'"
            )
        if status.st_size > max_bytes:
            raise ArtifactError(
                f"{path} has {status.st_size:,} bytes; at most {max_bytes:,} are read",
                hint="a model may have up to 2 GiB, and a card up to 64 MiB: restore the file, or "
                "export a smaller model",
            )
        with open(descriptor, "rb", closefd=False) as stream:
            # not `read(max_bytes)`: Python would reserve that much memory first
            return stream.read(status.st_size)
    finally:
        os.close(descriptor)


def _check_sha256(model_bytes: bytes, entry: RegistryEntry, path: Path) -> None:
    found = hashlib.sha256(model_bytes).hexdigest()
    if found != entry.sha256:
        raise ArtifactError(
            f"{path} is not the file that was registered as '{entry.model}': its sha256 is {found} "
            f"({len(model_bytes):,} bytes), the registry says {entry.sha256}",
            hint="it is a Git LFS pointer, not the model: run `git lfs pull`"
            if model_bytes.startswith(b"version https://git-lfs")
            else "restore the file; if it was changed on purpose, register it as a new version with "
            "`dbt-onnx register`",
        )


def write_artifact(
    root: Path,
    model_bytes: bytes,
    *,
    model_name: str,
    model_version: str,
    contract: Contract,
    replace: bool = False,
    **card_parts: Any,
) -> RegistryEntry:
    """Write `NAME/VERSION/model.onnx` and its card below `root`; return the entry, without an alias.

    `card_parts` are the optional keys of the card: parity, reference, reference_outputs and training.
    Raises ConfigError if the names are not safe, ArtifactError if a different model or card already
    exists there (unless `replace`), and the errors of `read_graph` and `check_contract`.
    """
    from dbt_onnx.artifacts.graph import read_graph

    faults = name_faults(model_name, what="the model's name")
    if faults := faults + name_faults(model_version, what="the version"):
        raise ConfigError("; ".join(faults), hint="choose a plain name, such as 'churn' and '1'")
    check_contract(contract, read_graph(model_bytes, where="the model"), where="the model")
    entry = RegistryEntry(
        model_name=model_name,
        model_version=model_version,
        alias=None,
        artifact=f"{model_name}/{model_version}/model.onnx",
        sha256=hashlib.sha256(model_bytes).hexdigest(),
    )
    path = root / entry.artifact
    card = render_card(entry, contract, **card_parts)
    if not replace:
        _refuse_others(root, entry.artifact, model_bytes, what="model", max_bytes=MAX_MODEL_BYTES)
        card_path = entry.sibling_path(CARD_NAME)
        _refuse_others(root, card_path, card, what="card of this model", max_bytes=MAX_CARD_BYTES)
    for folder in (path.parent.parent, path.parent):
        if folder.is_symlink():
            raise ArtifactError(
                f"{folder} is a symbolic link; symbolic links are not allowed below {root}",
                hint="put the folder itself there",
            )
        _refuse_case_variant(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, model_bytes)
    replace_file(path.with_name(CARD_NAME), card)
    return changed(entry, card_sha256=digest(card))


def _refuse_case_variant(folder: Path) -> None:
    """Raise ArtifactError if the name of a sibling folder differs only in letter case.

    On file systems that ignore case, the two are the same folder.
    """
    for name in (item.name for item in folder.parent.glob("*")):
        if name != folder.name and name.casefold() == folder.name.casefold():
            raise ArtifactError(
                f"{folder.parent} has {name!r}, and {folder.name!r} differs from it only in letter case",
                hint="use that spelling, or choose another name",
            )


def _refuse_others(root: Path, relative: str, content: bytes, *, what: str, max_bytes: int) -> None:
    """Raise ArtifactError if a file with different content already exists there. Line endings may differ."""
    if not os.path.lexists(root / relative):
        return
    found = read_below(root, relative, max_bytes=max_bytes)
    if found.replace(b"\r\n", b"\n") != content.replace(b"\r\n", b"\n"):
        raise ArtifactError(
            f"{root / relative} already exists and contains another {what}",
            hint="choose a new version; remove that folder only if nothing was scored with it",
        )
