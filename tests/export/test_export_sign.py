"""Signatures over cards: made and checked offline; anything changed, missing or by another key fails."""

import socket
from pathlib import Path

import msgspec
import pytest

import leap_zoo
from export import zoo as signing
from export.zoo import publish, sign
from leap_zoo.card import Index
from leap_zoo.cli import main
from leap_zoo.documents import index_entry, read_card, write_card, write_index
from leap_zoo.errors import InvalidArgument, MissingExtra, NotSigned
from leap_zoo.pull import pull
from leap_zoo.verify import verify

TINY = "leap-tiny-test"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ours.pem, ours.pub, theirs.pem, theirs.pub, locked.pem (encrypted) and rsa.pem."""
    pytest.importorskip("model_signing", reason="the sign extra is not installed")
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    folder = tmp_path_factory.mktemp("keys")
    open_, pkcs8 = pem.NoEncryption(), pem.PrivateFormat.PKCS8
    for name in ("ours", "theirs"):
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / f"{name}.pem").write_bytes(key.private_bytes(pem.Encoding.PEM, pkcs8, open_))
        public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    locked = key.private_bytes(pem.Encoding.PEM, pkcs8, pem.BestAvailableEncryption(b"secret"))
    (folder / "locked.pem").write_bytes(locked)
    other = rsa.generate_private_key(65537, 2048).private_bytes(pem.Encoding.PEM, pkcs8, open_)
    (folder / "rsa.pem").write_bytes(other)
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a signature needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def signed_zoo(zoo_copy: Path, keys: Path) -> Path:
    assert sign(zoo_copy, keys / "ours.pem") == [zoo_copy / TINY / "model.sig"]
    return zoo_copy


def exit_code(zoo: Path | None, key: Path) -> int:
    return main(["verify", TINY, "--key", str(key), *(["--zoo", str(zoo)] if zoo else [])])


def test_verify__signed_model(signed_zoo: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = verify(TINY, signed_zoo, keys / "ours.pub")
    assert report.ok
    assert report.signed
    assert verify(TINY, signed_zoo).signed is None
    assert exit_code(signed_zoo, keys / "ours.pub") == 0
    assert "signed by the owner of" in capsys.readouterr().out


def test_sign__one_model_wherever_it_is(zoo_copy: Path, keys: Path, tmp_path: Path) -> None:
    (zoo_copy / TINY).rename(tmp_path / "anywhere")
    sign(tmp_path / "anywhere", keys / "ours.pem")
    signing.add(tmp_path / "anywhere", tmp_path / "new")
    assert exit_code(tmp_path / "new", keys / "ours.pub") == 0


def test_verify__pulled_model_of_which_one_file_is_here(signed_zoo: Path, keys: Path) -> None:
    assert pull(TINY, signed_zoo).signed
    assert exit_code(None, keys / "ours.pub") == 0
    assert exit_code(None, keys / "theirs.pub") == 1


def test_verify__other_key(signed_zoo: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(signed_zoo, keys / "theirs.pub") == 1
    error = capsys.readouterr().err
    assert "was not made for this card" in error
    assert error.count("\n") == 1


def test_verify__without_signature(zoo_copy: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(zoo_copy, keys / "ours.pub") == 1
    assert "is not signed" in capsys.readouterr().err
    assert not pull(TINY, zoo_copy).signed
    assert exit_code(None, keys / "ours.pub") == 1


def test_verify__tampered_card_with_an_index_to_match(signed_zoo: Path, keys: Path) -> None:
    path = signed_zoo / TINY / "card.json"
    card = msgspec.structs.replace(read_card(path), description="another")
    write_index(signed_zoo / "index.json", Index(models=[index_entry(card, write_card(path, card))]))
    assert leap_zoo.load(TINY, zoo=signed_zoo).card.description == "another"  # only the signature can tell
    with pytest.raises(NotSigned, match="was not made for this card"):
        verify(TINY, signed_zoo, keys / "ours.pub")
    pull(TINY, signed_zoo)
    assert exit_code(None, keys / "ours.pub") == 1


def test_verify__tampered_file(signed_zoo: Path, keys: Path) -> None:
    path = signed_zoo / TINY / "model.onnx"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert exit_code(signed_zoo, keys / "ours.pub") == 1


@pytest.mark.parametrize(
    "signature", [b"", b"{}", b"[]", b"\xff", b'{"mediaType": 5}', b"[" * 60_000, b"x" * 100_000], ids=range(7)
)
def test_verify__invalid_signature(signed_zoo: Path, keys: Path, signature: bytes) -> None:
    (signed_zoo / TINY / "model.sig").write_bytes(signature)
    assert exit_code(signed_zoo, keys / "ours.pub") == 1


def test_verify__flipped_signature(signed_zoo: Path, keys: Path) -> None:
    path = signed_zoo / TINY / "model.sig"
    text = path.read_text()
    start = text.index('"sig":') + 12
    path.write_text(text[:start] + ("A" if text[start] != "A" else "B") + text[start + 1 :])
    assert exit_code(signed_zoo, keys / "ours.pub") == 1


def test_verify__signature_of_another_model(signed_zoo: Path, keys: Path) -> None:
    card = read_card(signed_zoo / TINY / "card.json")
    old = (signed_zoo / TINY / "model.sig").read_bytes()
    publish(signed_zoo, msgspec.structs.replace(card, revision="2"))
    assert not (signed_zoo / TINY / "model.sig").exists()  # it was of revision 1
    (signed_zoo / TINY / "model.sig").write_bytes(old)
    assert exit_code(signed_zoo, keys / "ours.pub") == 1


@pytest.mark.parametrize("name", ["ours.pem", "absent.pub", "rsa.pem"])
def test_verify__no_public_key(signed_zoo: Path, keys: Path, name: str) -> None:
    assert exit_code(signed_zoo, keys / name) == 2


@pytest.mark.parametrize("name", ["ours.pub", "absent.pem", "rsa.pem", "locked.pem"])
def test_sign__no_private_key_of_use(zoo_copy: Path, keys: Path, name: str) -> None:
    assert signing.main(["sign", str(zoo_copy), "--key", str(keys / name)]) == 2
    assert not (zoo_copy / TINY / "model.sig").exists()


def test_sign__what_its_card_does_not_describe_is_refused(zoo_copy: Path, keys: Path, tmp_path: Path) -> None:
    (zoo_copy / TINY / "model.onnx").write_bytes(b"x")
    with pytest.raises(leap_zoo.ArtifactCorrupt):
        sign(zoo_copy / TINY, keys / "ours.pem")
    with pytest.raises(InvalidArgument, match="not a model's folder"):
        sign(tmp_path / "absent", keys / "ours.pem")


def test_sign__without_the_extra_says_which(zoo_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "model_signing", None)
    with pytest.raises(MissingExtra, match=r"leap-zoo\[sign\]"):
        sign(zoo_copy, tmp_path / "any.pem")
