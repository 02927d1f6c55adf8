"""Who signs: keys named by the settings, or a development key made on first use and named as such.

C2PA wants a leaf certificate below an authority, so a development identity is both: an own CA whose key is thrown
away, and a leaf for signing. Its name says that it vouches for nobody.
"""

from __future__ import annotations

import datetime
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from genrec.config.content import FidelitySettings
from genrec.errors import SettingsError

DEVELOPMENT = "DEVELOPMENT KEY, vouches for nobody"
CHAIN, KEY, ANCHOR = "development_chain.pem", "development_key.pem", "development_ca.pem"


@dataclass(frozen=True)
class SigningKeys:
    """What a manifest is signed with.

    Attributes:
        chain: PEM, the leaf first.
        private_key: PEM, PKCS #8, of the leaf (ES256).
        anchors: PEM of the authorities that a reader trusts.
        development: made here for want of others.
    """

    chain: bytes
    private_key: bytes
    anchors: bytes
    development: bool

    def __repr__(self) -> str:
        return f"SigningKeys(development={self.development})"  # never the key


def signing_keys(settings: FidelitySettings, directory: Path) -> SigningKeys:
    """The keys of the settings; a development key below ``directory`` if they name none.

    Raises:
        SettingsError: one of key and chain is missing or cannot be read.
    """
    if settings.certificates is None and settings.private_key is None:
        return _development(directory)
    if settings.certificates is None or settings.private_key is None:
        raise SettingsError(
            "content.fidelity.certificates, private_key: one of them is missing; name both, or none for a "
            "development key"
        )
    chain = _read("certificates", settings.certificates)
    key = _read("private_key", settings.private_key)
    anchors = chain if settings.trust_anchors is None else _read("trust_anchors", settings.trust_anchors)
    return SigningKeys(chain, key, anchors, development=False)


def _read(leaf: str, reference: str) -> bytes:
    """A PEM file, or what the environment variable holds in ``env:NAME``."""
    kind, _, name = reference.partition(":")
    try:
        pem = os.environ[name].encode() if kind == "env" else Path(reference).read_bytes()
    except (KeyError, OSError) as error:
        raise SettingsError(f"content.fidelity.{leaf}: cannot read {reference!r} ({type(error).__name__})") from error
    if b"-----BEGIN " not in pem:
        raise SettingsError(f"content.fidelity.{leaf}: {reference!r} holds no PEM")
    return pem


def _development(directory: Path) -> SigningKeys:
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        if not (directory / CHAIN).is_file():
            _make_development(directory)
    chain, key, anchors = ((directory / name).read_bytes() for name in (CHAIN, KEY, ANCHOR))
    return SigningKeys(chain, key, anchors, development=True)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory's lock, so that only one process makes what is missing in it."""
    with (directory / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _make_development(directory: Path) -> None:
    """Write CA, key and chain; the chain last and by rename, so that whoever sees it sees all three."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name, leaf_name = _name("genrec development CA"), _name("genrec content")
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        _builder(leaf_name, ca_name, leaf_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(leaf_key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    ca_pem, leaf_pem = ca.public_bytes(pem), leaf.public_bytes(pem)
    key_pem = leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(directory / KEY, key_pem)
    _write(directory / ANCHOR, ca_pem)
    _write(directory / CHAIN, leaf_pem + ca_pem)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, DEVELOPMENT),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=730))
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not sign,
        crl_sign=not sign,
        encipher_only=False,
        decipher_only=False,
    )
