"""Signatures of notifications, made and verified: RSA over the sorted keys, as SNS signs (SNS: T57).

A receiver trusts a certificate that it got by a way of its own. The URL in a message says where one lies; whoever asks
that URL for it, trusts the message to say whom to trust.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from pipeflow.errors import ConfigurationError, MissingExtra

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.x509.oid import NameOID
except ImportError as error:
    raise MissingExtra("signing notifications", "sign") from error

KEYS: Final = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
"""What is signed of each type, in the order of bytes; keys that are not there are left out, and attributes always."""

LARGEST_KEY: Final = 16 << 10
VALID_DAYS: Final = 3650


def string_to_sign(document: Mapping[str, object]) -> bytes:
    """`key\\nvalue\\n` for each signed key; KeyError for a type that is never signed."""
    keys = KEYS[str(document["Type"])]
    return "".join(f"{key}\n{document[key]}\n" for key in keys if document.get(key) is not None).encode()


class Signer:
    """Signs documents with one key. ConfigurationError when the key cannot be used."""

    def __init__(self, key: str, certificate_url: str, version: int) -> None:
        self._key = _private_key(key.removeprefix("file:"))
        self._url = certificate_url
        self._version = version

    def sign(self, document: Mapping[str, object]) -> dict[str, str]:
        """What goes into the document: the same for the same document."""
        signature = self._key.sign(string_to_sign(document), padding.PKCS1v15(), _HASHES[str(self._version)])
        return {
            "SignatureVersion": str(self._version),
            "Signature": base64.b64encode(signature).decode(),
            "SigningCertURL": self._url,
        }


def verify(document: object, certificate: bytes) -> bool:
    """Whether this notification or confirmation was signed with the key of this certificate, given as PEM.

    `document` is the decoded JSON body of a request. False for one that is not signed, malformed, or no object at all.
    """
    if not isinstance(document, Mapping):
        return False
    key = x509.load_pem_x509_certificate(certificate).public_key()
    algorithm = _HASHES.get(str(document.get("SignatureVersion")))
    if algorithm is None or not isinstance(key, rsa.RSAPublicKey) or document.get("Type") not in KEYS:
        return False
    try:
        signature = base64.b64decode(str(document.get("Signature")), validate=True)
        key.verify(signature, string_to_sign(document), padding.PKCS1v15(), algorithm)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def make_certificate(name: str, now: datetime) -> tuple[bytes, bytes]:
    """A new RSA key of 2048 bits and its self-made certificate, both as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


_HASHES: Final[dict[str, Any]] = {"1": hashes.SHA1(), "2": hashes.SHA256()}  # what SNS's version 1 is


def _private_key(path: str) -> rsa.RSAPrivateKey:
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(LARGEST_KEY)
    except OSError as error:
        raise ConfigurationError(
            f"signing key {path}: {error.strerror}; make one with `pipeflow topics certificate`"
        ) from error
    if mode & 0o077:
        raise ConfigurationError(f"signing key {path}: others can read it (mode {mode:04o}); run chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"signing key {path} is no PEM key without password; make one with `pipeflow topics certificate`"
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigurationError(f"signing key {path} is no RSA key; make one with `pipeflow topics certificate`")
    return key
