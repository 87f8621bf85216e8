"""Signs and verifies registered versions with the OpenSSF's package `model-signing`: with a key, offline.

`model.sig` is next to the model file and covers two files: the model, and its card, which contains the
model's name and version. A scoring run does not import this module.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.artifact import Artifact, load_artifact, read_below, read_card
from dbt_onnx.artifacts.card import CARD_NAME, replace_file
from dbt_onnx.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbt_onnx.artifacts.registry import RegistryEntry

SIGNATURE_NAME = "model.sig"
MAX_SIGNATURE_BYTES = 2**20

_KEYS = (
    "give an elliptic curve key (P-256, P-384 or P-521) in PEM format; "
    "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out private.pem` creates a private key"
)
_OF_KIND = {
    "private": "; its password, if it has one, is read from DBT_ONNX_KEY_PASSWORD",
    "public": "; `openssl pkey -in private.pem -pubout` prints its public part",
}


def sign_version(
    root: Path, entry: RegistryEntry, *, key: Path, password: str | None = None
) -> Path:
    """Sign a registered version with the private key in the file `key`, replacing any older signature.

    `root` is the artifacts directory. Returns the path of `model.sig`. Raises ConfigError if the key
    cannot be used, `model-signing` is not installed or `model.sig` cannot be written, and the errors of
    `load_artifact`.
    """
    package = _model_signing()
    artifact = load_artifact(root, entry)
    # cryptography needs bytes, although model-signing annotates the password as str
    secret: Any = password.encode() if password is not None else None
    with _key_errors(key, "private"):
        signer = package.signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
    path = artifact.path.parent / SIGNATURE_NAME
    with _signed_files(root, entry, artifact) as folder:
        written = folder.parent / SIGNATURE_NAME
        signer.set_hashing_config(_hashing(package)).sign(folder, written)
        try:
            replace_file(path, written.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written: {error.strerror or error}",
                hint="give the user who signs the right to write there, and free space on the disk if it is full",
            ) from error
    return path


class SignatureVerifier:
    """A verifier of signatures with one public key.

    Raises ConfigError if the key cannot be used or `model-signing` is not installed.
    """

    def __init__(self, public_key: Path) -> None:
        package = _model_signing()
        self._public_key = public_key
        with _key_errors(public_key, "public"):
            self._verifier = package.verifying.Config().use_elliptic_key_verifier(
                public_key=public_key
            )
        self._verifier.set_hashing_config(_hashing(package))

    def check(self, root: Path, entry: RegistryEntry, artifact: Artifact) -> None:
        """Raise ArtifactError unless `model.sig` is this key's signature of this model and card."""
        path = artifact.path.parent / SIGNATURE_NAME
        try:
            content = read_below(
                root, entry.sibling_path(SIGNATURE_NAME), max_bytes=MAX_SIGNATURE_BYTES
            )
        except ArtifactError as error:
            if path.is_symlink() or path.exists():
                raise
            raise ArtifactError(
                f"{path} does not exist: the version is not signed",
                hint="the person responsible for the model signs it with `dbt-onnx sign`",
            ) from error
        with _signed_files(root, entry, artifact) as folder:
            copy = folder.parent / SIGNATURE_NAME
            copy.write_bytes(content)
            try:
                self._verifier.verify(folder, copy)
            except Exception as error:
                raise self._fault(path, artifact, error) from error

    def _fault(self, path: Path, artifact: Artifact, error: Exception) -> ArtifactError:
        """Turn the package's error, which may be any error of its parsers, into an ArtifactError."""
        from cryptography.exceptions import InvalidSignature

        said = str(error)
        if isinstance(error, InvalidSignature) or said.startswith("Key mismatch"):
            return ArtifactError(
                f"{path} was not made with the key of {self._public_key}",
                hint="ask the person responsible for the model; sign it with `dbt-onnx sign` only if you "
                "know where its file comes from",
            )
        if said.startswith("Signature mismatch"):
            differ = [name for name in (artifact.path.name, CARD_NAME) if name in said]
            return ArtifactError(
                f"{path} is the signature of another {' and '.join(differ) or 'set of files'}",
                hint="restore the model, card and signature of this version together; if they were "
                "changed on purpose, register and sign them as a new version",
            )
        return ArtifactError(
            f"{path} is not a signature: {type(error).__name__}: {said.partition(chr(10))[0]:.200}",
            hint="restore it from version control, or sign the version again with `dbt-onnx sign`",
        )


def _model_signing() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise ConfigError(
            f"signatures need the package model-signing: {error}",
            hint="pip install 'dbt-onnx[sign]'",
        ) from error
    return model_signing


def _hashing(package: Any) -> Any:
    class Everything(package.hashing.Config):  # type: ignore[misc]
        def add_ignored_paths(self, **_: Any) -> None:
            """Do nothing, so that a signature cannot exclude files from the check."""

    return Everything().set_ignored_paths(paths=(), ignore_git_paths=False)


@contextmanager
def _key_errors(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        said = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise ConfigError(
            f"{path} cannot be used as a {kind} key: {said or type(error).__name__}",
            hint=_KEYS + _OF_KIND[kind],
        ) from error


@contextmanager
def _signed_files(root: Path, entry: RegistryEntry, artifact: Artifact) -> Iterator[Path]:
    """Yield a temporary folder with copies of the model and its card, and nothing else."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / f"{entry.model_name}-{entry.model_version}"
        folder.mkdir()
        (folder / artifact.path.name).write_bytes(artifact.model_bytes)
        (folder / CARD_NAME).write_bytes(read_card(root, entry))
        yield folder
