"""A signature vouches for a version: what it covers, and which changes it detects."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_models as models
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from model_signing import hashing, signing, verifying

from dbt_onnx.artifacts.artifact import load_artifact, write_artifact
from dbt_onnx.artifacts.registry import Registry, RegistryEntry
from dbt_onnx.artifacts.registry_file import put_entry
from dbt_onnx.artifacts.signing import SignatureVerifier, sign_version
from dbt_onnx.artifacts.verification import Verdict, verify_entry
from dbt_onnx.cli import main
from dbt_onnx.errors import ConfigError
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

if TYPE_CHECKING:
    from collections.abc import Callable

CONTRACT = Contract(
    features=(Feature(name="a"), Feature(name="b")),
    inputs=(Input(name="x", dtype="float32", features=("a", "b")),),
    outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
)
SAMPLE = {"features": {"a": [1, 2.5], "b": [1, 0]}, "outputs": {"y": [1.5, 5.5]}, "tolerance": 0}


class Signed:
    """A project with versions 1 and 2 of a model, both signed with `private.pem`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "artifacts"
        self.registry = folder / "seeds/model_registry.csv"
        self.registry.parent.mkdir()
        self.private, self.public = write_keys(folder, ec.generate_private_key(ec.SECP256R1()))
        for version in "12":
            self.write(version)
            sign_version(self.root, self.entry(version), key=self.private)

    def write(self, version: str, *, content: bytes | None = None, **card: Any) -> None:
        entry = write_artifact(
            self.root,
            content or models.linear().SerializeToString(),
            model_name="m",
            model_version=version,
            contract=CONTRACT,
            replace=True,
            parity=SAMPLE,
            **card,
        )
        # without card_sha256, so that the signature alone must detect the change
        put_entry(self.registry, replace(entry, card_sha256=None))

    def entry(self, version: str) -> RegistryEntry:
        return Registry.from_csv(self.registry).resolve(f"m/{version}")

    def file(self, name: str, version: str = "1") -> Path:
        return self.root / "m" / version / name

    def verdict(self, version: str = "1") -> Verdict:
        verifier = SignatureVerifier(self.public)
        return verify_entry(self.root, self.entry(version), verifier=verifier)

    def run(self, command: str, *arguments: object, **environment: str) -> Result:
        given = [command, *map(str, arguments), "--project-dir", str(self.folder)]
        result = CliRunner().invoke(main, given, env={"COLUMNS": "200", **environment})
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    def verify(self) -> Result:
        return self.run("verify", "--signed", "--public-key", self.public)


def write_keys(folder: Path, key: Any, password: bytes | None = None) -> tuple[Path, Path]:
    """Write a key to `private.pem` and `public.pem`."""
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    private, public = folder / "private.pem", folder / "public.pem"
    pem = serialization.Encoding.PEM
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption))
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, kind))
    return private, public


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    return Signed(tmp_path)


def test_signed_versions_are_valid_and_their_samples_are_scored(signed: Signed) -> None:
    result = signed.verify()
    assert result.exit_code == 0, result.output
    assert result.output.count("valid") == result.output.count("2 rows, within") == 2


def test_sign_says_what_it_signed_and_where(signed: Signed) -> None:
    signed.file("model.sig").unlink()
    result = signed.run("sign", "m/1", "--key", signed.private)
    assert (result.exit_code, signed.file("model.sig").exists()) == (0, True)
    assert f"signed m/1, model and card\nsignature {signed.file('model.sig')}" in result.output
    assert signed.verdict().passed


def test_without_signed_the_table_is_as_it_was(signed: Signed) -> None:
    signed.file("model.sig").write_text("garbage")
    result = signed.run("verify")
    assert result.exit_code == 0
    assert "signature" not in result.output
    assert [path.name for path in signed.file("").iterdir() if path.name[0] == "."] == []


def altered_model(signed: Signed) -> None:
    """Change the model, as somebody can who may also change registry and card."""
    signed.write("1", content=models.linear(metadata={"by": "somebody"}).SerializeToString())


def altered_card(signed: Signed) -> None:
    """Exchange the columns: the same file and sha256, but other predictions."""
    text = signed.file("card.json").read_text()
    card = json.loads(text)
    card["contract"]["inputs"][0]["features"] = ["b", "a"]
    card["parity"]["features"] = {"a": [1, 0], "b": [1, 2.5]}
    signed.file("card.json").write_text(json.dumps(card))


def blank_in_the_card(signed: Signed) -> None:
    signed.file("card.json").write_text(signed.file("card.json").read_text() + " ")


def signature_of_another_version(signed: Signed) -> None:
    shutil.copy(signed.file("model.sig", "2"), signed.file("model.sig"))


def another_version_in_its_place(signed: Signed) -> None:
    """Put all three files of version 2 in its place, and register them: the card names the version."""
    shutil.rmtree(signed.file(""))
    shutil.copytree(signed.file("", "2"), signed.file(""))


def another_key(signed: Signed) -> None:
    (signed.folder / "other").mkdir()
    key, _ = write_keys(signed.folder / "other", ec.generate_private_key(ec.SECP256R1()))
    sign_version(signed.root, signed.entry("1"), key=key)


def another_key_that_claims_to_be_this_one(signed: Signed) -> None:
    ours = json.loads(signed.file("model.sig").read_text())
    another_key(signed)
    theirs = json.loads(signed.file("model.sig").read_text())
    theirs["verificationMaterial"] = ours["verificationMaterial"]
    signed.file("model.sig").write_text(json.dumps(theirs))


def another_payload(signed: Signed) -> None:
    """Combine the signature of version 1 with the payload of version 2."""
    ours = json.loads(signed.file("model.sig").read_text())
    other = json.loads(signed.file("model.sig", "2").read_text())
    ours["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    signed.file("model.sig", "1").write_text(json.dumps(ours))


def leaves_out(*names: str) -> Callable[[Signed], None]:
    """Sign with the right key, but ignore these files."""

    def leave_out(signed: Signed) -> None:
        config = hashing.Config().set_ignored_paths(paths=(*names, "model.sig"))
        signing.Config().use_elliptic_key_signer(private_key=signed.private).set_hashing_config(
            config
        ).sign(signed.file(""), signed.file("model.sig"))

    return leave_out


def missing(signed: Signed) -> None:
    signed.file("model.sig").unlink()


def symbolic_link(signed: Signed) -> None:
    signed.file("model.sig").rename(signed.folder / "model.sig")
    signed.file("model.sig").symlink_to(signed.folder / "model.sig")


def folder(signed: Signed) -> None:
    missing(signed)
    signed.file("model.sig").mkdir()


def named_pipe(signed: Signed) -> None:
    missing(signed)
    os.mkfifo(signed.file("model.sig"))


def large(signed: Signed) -> None:
    signed.file("model.sig").write_bytes(b" " * (2**20 + 1))


def holds(text: str) -> Callable[[Signed], None]:
    return lambda signed: signed.file("model.sig").write_text(text, encoding="utf-8") and None


def without(*path: str) -> Callable[[Signed], None]:
    """Remove one part of the signature."""

    def cut(signed: Signed) -> None:
        bundle = part = json.loads(signed.file("model.sig").read_text())
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = [] if isinstance(part[path[-1]], list) else None
        signed.file("model.sig").write_text(json.dumps(bundle))

    return cut


FAULTS: dict[str, tuple[Callable[[Signed], None], str]] = {
    "missing": (missing, "does not exist: the version is not signed"),
    "model altered, registry and card with it": (
        altered_model,
        "signature of another model.onnx and card.json",
    ),
    "card altered": (altered_card, "signature of another card.json"),
    "a blank in the card": (blank_in_the_card, "signature of another card.json"),
    "signature of another version": (
        signature_of_another_version,
        "signature of another card.json",
    ),
    "another version in its place": (another_version_in_its_place, "does not belong to model"),
    "another key": (another_key, "was not made with the key of"),
    "another key's, under this one's name": (
        another_key_that_claims_to_be_this_one,
        "was not made with the key of",
    ),
    "another payload": (another_payload, "was not made with the key of"),
    "signed without the model": (leaves_out("model.onnx"), "signature of another model.onnx"),
    "signed without the card": (leaves_out("card.json"), "signature of another card.json"),
    "symbolic link": (symbolic_link, "is a symbolic link"),
    "folder": (folder, "is a directory"),
    "named pipe": (named_pipe, "not a regular file"),
    "large": (large, "at most 1,048,576 are read"),
    "empty": (holds(""), "is not a signature"),
    "no JSON": (holds("\x00garbage"), "is not a signature"),
    "a list": (holds("[1]"), "is not a signature"),
    "an empty object": (holds("{}"), "is not a signature"),
    "deep": (holds("[" * 100_000), "is not a signature"),
    "without an envelope": (without("dsseEnvelope"), "is not a signature"),
    "without signatures": (without("dsseEnvelope", "signatures"), "is not a signature"),
    "without a payload": (without("dsseEnvelope", "payload"), "is not a signature"),
    "of another media type": (without("mediaType"), "is not a signature"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_with_a_remedy_and_spares_the_other_version(
    signed: Signed, name: str
) -> None:
    act, fault = FAULTS[name]
    act(signed)
    verdict = signed.verdict()
    assert (verdict.passed, verdict.is_signed) == (False, False)
    assert fault in (verdict.fault or "")
    assert verdict.hint
    assert signed.verdict("2").passed
    result = signed.verify()
    assert result.exit_code == 1
    assert (result.output.count("FAILED"), result.output.count("Hint:")) == (1, 1)
    assert "Traceback" not in result.output


def test_a_model_is_not_run_before_its_signature_is_checked(
    signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered_model(signed)
    monkeypatch.setattr("dbt_onnx.artifacts.artifact.Artifact.open", pytest.fail)
    assert not signed.verdict().passed


def test_files_beside_model_and_card_do_not_matter(signed: Signed) -> None:
    signed.file("README.md").write_text("trained on a Tuesday")
    assert signed.verdict().passed
    sign_version(signed.root, signed.entry("1"), key=signed.private)
    signed.file("README.md").write_text("trained on a Wednesday")
    assert signed.verdict().passed


def test_a_file_of_another_name_is_signed_too(signed: Signed) -> None:
    signed.file("model.onnx").rename(signed.file("line.onnx"))
    entry = replace(signed.entry("1"), artifact="m/1/line.onnx")
    verifier = SignatureVerifier(signed.public)
    fault = verify_entry(signed.root, entry, verifier=verifier).fault
    assert "signature of another line.onnx" in (fault or "")
    sign_version(signed.root, entry, key=signed.private)
    assert verify_entry(signed.root, entry, verifier=verifier).passed


def test_a_signature_leaves_nothing_out(signed: Signed) -> None:
    envelope = json.loads(signed.file("model.sig").read_text())["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert [subject["name"] for subject in statement["subject"]] == ["m-1"]
    signed_files = {item["name"]: item["digest"] for item in statement["predicate"]["resources"]}
    assert signed_files == {
        name: hashlib.sha256(signed.file(name).read_bytes()).hexdigest()
        for name in ("card.json", "model.onnx")
    }
    assert "ignore_paths" not in statement["predicate"]["serialization"]


def test_what_the_package_signs_by_itself_is_valid_and_the_other_way_round(signed: Signed) -> None:
    leaves_out()(signed)
    assert signed.verdict().passed
    package = verifying.Config().use_elliptic_key_verifier(public_key=signed.public)
    config = hashing.Config().set_ignored_paths(paths=["model.sig"])
    package.set_hashing_config(config).verify(signed.file("", "2"), signed.file("model.sig", "2"))


def test_signing_again_replaces_the_signature(signed: Signed) -> None:
    blank_in_the_card(signed)
    sign_version(signed.root, signed.entry("1"), key=signed.private)
    assert signed.verdict().passed


def test_what_is_not_as_registered_is_not_signed(signed: Signed) -> None:
    signed.file("model.onnx").write_bytes(b"something")
    before = signed.file("model.sig").read_bytes()
    result = signed.run("sign", "m/1", "--key", signed.private)
    assert result.exit_code == 1
    assert "is not the file that was registered" in result.stderr
    assert signed.file("model.sig").read_bytes() == before


def test_signing_does_not_follow_a_link_in_the_place_of_the_signature(signed: Signed) -> None:
    target = signed.folder / "target"
    target.write_text("precious")
    signed.file("model.sig").unlink()
    signed.file("model.sig").symlink_to(target)
    sign_version(signed.root, signed.entry("1"), key=signed.private)
    assert target.read_text() == "precious"
    assert signed.verdict().passed


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_the_three_curves_sign(signed: Signed, curve: Any) -> None:
    write_keys(signed.folder, ec.generate_private_key(curve()))
    sign_version(signed.root, signed.entry("1"), key=signed.private)
    assert signed.verdict().passed


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=lambda key: type(key).__name__,
)
def test_other_keys_are_refused_as_either_half(signed: Signed, key: Any) -> None:
    write_keys(signed.folder, key)
    for result in (signed.run("sign", "m/1", "--key", signed.private), signed.verify()):
        assert result.exit_code == 2
        assert "cannot be used as a p" in result.stderr
        assert "openssl genpkey -algorithm EC" in result.stderr


def test_a_file_that_holds_no_such_key_is_refused(signed: Signed) -> None:
    (signed.folder / "text").write_text("no key")
    for private, public in (
        (signed.public, signed.private),
        (signed.folder / "text",) * 2,
        (signed.folder / "nowhere",) * 2,
    ):
        sign = signed.run("sign", "m/1", "--key", private)
        verify = signed.run("verify", "--signed", "--public-key", public)
        assert (sign.exit_code, verify.exit_code) == (2, 2)
        assert f"Error: {private} cannot be used as a private key: " in sign.stderr
        assert f"Error: {public} cannot be used as a public key: " in verify.stderr


def test_a_key_may_have_a_password(signed: Signed) -> None:
    write_keys(signed.folder, ec.generate_private_key(ec.SECP256R1()), b"a secret")
    arguments = ("sign", "m/1", "--key", signed.private)
    for environment in ({}, {"DBT_ONNX_KEY_PASSWORD": "a guess"}):
        result = signed.run(*arguments, **environment)
        assert result.exit_code == 2
        assert "is read from DBT_ONNX_KEY_PASSWORD" in result.stderr
        assert "a guess" not in result.output
    assert signed.run(*arguments, DBT_ONNX_KEY_PASSWORD="a secret").exit_code == 0
    assert signed.verdict().passed


@pytest.mark.parametrize("given", [("--signed",), ("--public-key", "public.pem")])
def test_the_two_options_go_together(signed: Signed, given: tuple[str, ...]) -> None:
    result = signed.run("verify", *given)
    assert result.exit_code == 2
    assert "--signed and --public-key go together" in result.stderr


def test_without_the_package_both_commands_say_what_to_install(
    signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for result in (signed.run("sign", "m/1", "--key", signed.private), signed.verify()):
        assert result.exit_code == 2
        assert "Hint: pip install 'dbt-onnx[sign]'" in result.stderr
    assert signed.run("verify").exit_code == 0
    with pytest.raises(ConfigError):
        SignatureVerifier(signed.public)


def test_a_signature_disturbs_neither_loading_nor_another_export(signed: Signed) -> None:
    assert load_artifact(signed.root, signed.entry("1")).model_version == "1"
    signed.write("1", training={"note": "again"})
    assert "signature of another card.json" in (signed.verdict().fault or "")


def test_a_scoring_run_imports_none_of_it() -> None:
    program = (
        "import sys, dbt_onnx.project.dbt_model, dbt_onnx.engines.duckdb.engine, dbt_onnx.cli; "
        "print([n for n in ('model_signing', 'sigstore', 'cryptography') if n in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_the_package_still_imports_what_it_does_not_require() -> None:
    """If model-signing stops importing or starts requiring OpenSSL, the extra `sign` need not name pyOpenSSL."""
    assert not any("openssl" in line.lower() for line in requires("model-signing") or ())
    import model_signing

    source = Path(model_signing.__file__).parent / "_signing/sign_certificate.py"
    assert "from OpenSSL import" in source.read_text()
