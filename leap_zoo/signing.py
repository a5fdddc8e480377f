"""Check who published a model, with OpenSSF's `model-signing` package (extra `sign`). `export.zoo` signs.

`model.sig` beside the card covers only card.json. The card has the size and sha256 of every other file, so signature ->
card -> files covers the whole model, even if only some of its files were pulled. Nothing here uses the network.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from leap_zoo.card import ModelCard
from leap_zoo.errors import InvalidArgument, NotSigned, import_extra, short
from leap_zoo.files import failing_as, read_regular
from leap_zoo.store import Zoo, check_card

if TYPE_CHECKING:
    import model_signing

_MAX_KEY_BYTES = 64 * 1024
NEW_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out private.pem"


def check_signature(place: Zoo, card: ModelCard, key: str | os.PathLike[str]) -> None:
    """Raises NotSigned unless the owner of the public `key` (PEM) signed this very `card`; MissingExtra."""
    public_key = key_file(key)
    from model_signing import verifying

    entry = place.entry(card.id)
    data, signature = place.card_bytes(entry), place.other(entry, "model.sig")
    if signature is None:
        raise NotSigned(f"{card.id} is not signed: ask its publisher for model.sig, or verify it without --key")
    if check_card(entry, data) != card:
        raise NotSigned(f"card.json of {card.id} has just changed: verify it again")
    with alone(card.id, data) as (folder, path):
        path.write_bytes(signature)
        config = verifying.Config().set_hashing_config(hashing())
        try:
            config.use_elliptic_key_verifier(public_key=public_key)
        except Exception as error:
            raise InvalidArgument(f"{short(key)} is not a public key ({reason(error)}): give its PEM file") from error
        try:
            config.verify(folder, path)
        except Exception as error:  # whatever a hostile file makes a parser raise: it is not a valid signature
            raise NotSigned(
                f"the signature of {card.id} was not made for this card with the key {short(key)} ({reason(error)}): "
                "do not use the model, or give the publisher's key"
            ) from error


def key_file(path: str | os.PathLike[str]) -> Path:
    """The path of a key file. Raises InvalidArgument if it cannot be read, MissingExtra if model-signing is missing."""
    import_extra("model_signing", "sign")
    with failing_as(InvalidArgument, f"cannot read the key {short(path)}", f"a new key: {NEW_KEY}"):
        data = read_regular(Path(path), _MAX_KEY_BYTES)
    if b"-----BEGIN" not in data:
        raise InvalidArgument(f"{short(path)} is not a PEM file; a new key: {NEW_KEY}")
    return Path(path)


def hashing() -> model_signing.hashing.Config:
    """How the signed folder is hashed."""
    from model_signing import hashing

    return hashing.Config().use_file_serialization(hashing_algorithm="sha256", max_workers=1)


@contextlib.contextmanager
def alone(name: str, card: bytes) -> Iterator[tuple[Path, Path]]:
    """A folder with only card.json, which is what gets signed, and the path of its signature.

    model-signing prints warnings to stdout, where they would break --json, so they are suppressed.
    """
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory(prefix="leap-zoo-") as temporary:
        folder = Path(temporary, name)
        folder.mkdir()
        (folder / "card.json").write_bytes(card)
        yield folder, Path(temporary, "model.sig")


def reason(error: Exception) -> str:
    """One line about whatever model-signing raised."""
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:200]
