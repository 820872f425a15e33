"""Encryption at rest: AES-GCM over what a run saves, where the environment has a key.

`LLMO_KEY` is 64 hexadecimal digits. What is sealed cannot be read or changed unnoticed without it.
"""

from __future__ import annotations

import os

from llmo.errors import LlmoError, needs_extra

VARIABLE = "LLMO_KEY"
MAGIC = b"llmo-sealed-1\n"
NONCE, TAG = 12, 16
CHUNK = 2**28
"""Bytes that are encrypted at once: the library takes less than 2 GiB."""


class KeyMissing(LlmoError):
    """What is encrypted cannot be read: there is no key, or another one."""


def check_key() -> None:
    """Whether what the environment has for a key can encrypt.

    Raises:
        LlmoError: It is no key, or the library is not installed.
    """
    if key() is not None:
        needs_extra("encryption", "cryptography", "privacy")


def key() -> bytes | None:
    """The key of the environment, 256 bits; None without one.

    Raises:
        LlmoError: It is no such key.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 32:
        # The value is a secret, so it is not told.
        raise LlmoError("key", f"{VARIABLE} of {len(text)} characters", "64 hexadecimal digits")
    return found


def seal(content: bytes, place: str) -> bytes:
    """Encrypt, where the environment has a key; else the content as it is.

    Args:
        content: What is to be kept.
        place: Where it is kept; it cannot be read from another place.
    """
    secret = key()
    if secret is None:
        return content
    needs_extra("encryption", "cryptography", "privacy")
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, parts = AESGCM(secret), [MAGIC]
    count = max(1, -(-len(content) // CHUNK))
    for index in range(count):
        nonce = os.urandom(NONCE)
        chunk = content[CHUNK * index : CHUNK * (index + 1)]
        parts += [nonce, cipher.encrypt(nonce, chunk, f"{place}/{index}/{count}".encode())]
    return b"".join(parts)


def unseal(content: bytes, place: str) -> bytes:
    """Decrypt what was sealed; without a key anything else is given back as it is.

    Args:
        content: What was kept.
        place: Where it was kept.

    Raises:
        KeyMissing: There is no key, it is another one, or the content was altered.
    """
    secret, sealed_once = key(), content.startswith(MAGIC)
    if not sealed_once and secret is None:
        return content
    if not sealed_once:
        raise KeyMissing("key", f"the one in {VARIABLE}", "none, as the run was begun without a key")
    if secret is None:
        raise KeyMissing("key", "none", f"that of the run, in {VARIABLE}")
    needs_extra("encryption", "cryptography", "privacy")
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, sealed = AESGCM(secret), content[len(MAGIC) :]
    size = NONCE + CHUNK + TAG
    count = max(1, -(-len(sealed) // size))
    opened = []
    for index in range(count):
        chunk = sealed[size * index : size * (index + 1)]
        try:
            opened.append(cipher.decrypt(chunk[:NONCE], chunk[NONCE:], f"{place}/{index}/{count}".encode()))
        except (InvalidTag, ValueError) as error:
            raise KeyMissing("key", f"the one in {VARIABLE}", "that of the run; or the file was altered") from error
    return b"".join(opened)
