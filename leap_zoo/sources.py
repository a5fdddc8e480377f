"""Where models can be pulled from: a folder, a server, or a repository of the Hugging Face hub; a zoo or one model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from leap_zoo.card import MAX_DOCUMENT_BYTES, File, IndexEntry, ModelCard
from leap_zoo.documents import index_entry, parse_card, parse_index
from leap_zoo.download import HttpSource, Source
from leap_zoo.errors import (
    ArtifactCorrupt,
    DownloadFailed,
    InvalidArgument,
    LeapZooError,
    MissingExtra,
    UnknownModel,
    masked,
    nearest,
    short,
)
from leap_zoo.files import read_regular
from leap_zoo.settings import read_settings, zoo_location
from leap_zoo.store import check_card, check_digest, default_model, read_inside


def open_source(location: str | os.PathLike[str]) -> Source:
    """The source at a folder, a file://, http(s):// or hf://OWNER/NAME URL. Raises InvalidArgument, MissingExtra."""
    place = zoo_location(location, "--from")
    if isinstance(place, Path):
        return FolderSource(place)
    return HubSource(place) if place.startswith("hf://") else HttpSource(place)


class Offer:
    """What a source has: the models of a zoo, or the one of a model's folder (card.json, and no index.json)."""

    def __init__(self, source: Source) -> None:
        """Reads the index. Raises InvalidArgument for a source that has none, and a LeapZooError."""
        self.source = source
        self._lone: bytes | None = None
        index = source.read("index.json", MAX_DOCUMENT_BYTES)
        if index is not None:
            self.models = parse_index(index, f"{source.name}/index.json").models
            return
        self._lone = source.read("card.json", MAX_DOCUMENT_BYTES)
        if self._lone is None:
            raise InvalidArgument(
                f"{short(source.name)} is no zoo, it has neither index.json nor card.json: check --from or LEAP_ZOO_URL"
            )
        self.models = [index_entry(parse_card(self._lone, f"{source.name}/card.json"), self._lone)]

    def entry(self, name: str | None = None) -> IndexEntry:
        """What the index says about a model; None: the only one, else leap-zoo's default. Raises UnknownModel."""
        entries = {entry.id: entry for entry in self.models}
        if name is None:
            name = next(iter(entries)) if len(entries) == 1 else default_model()
        if name not in entries:
            raise UnknownModel(f"{short(self.source.name)} has no model {short(name)}{nearest(name, entries)}")
        return entries[name]

    def card(self, entry: IndexEntry) -> tuple[bytes, ModelCard]:
        """card.json of a model, checked, and what it says. Raises ArtifactCorrupt, InvalidCard, DownloadFailed."""
        what, data = f"card.json of {entry.id}", self._lone
        if data is None:
            data = self.source.read(self.path(entry, "card.json"), entry.bytes)
        if data is None:
            raise ArtifactCorrupt(f"{what} is listed by the index, but it is not there: refused")
        check_digest(what, data, entry.sha256, "pull again, or ask whoever runs the zoo")
        return data, check_card(entry, data)

    def has(self, entry: IndexEntry, file: File) -> bool:
        """Whether a file is meant to be there: a model's folder may have some only."""
        return self._lone is None or self.source.holds(file.file)

    def path(self, entry: IndexEntry, file: str) -> str:
        """Where the source has a file of a model."""
        return file if self._lone is not None else f"{entry.id}/{file}"


@contextlib.contextmanager
def offer_of(location: str | os.PathLike[str]) -> Iterator[Offer]:
    """What the source at a location has, for the block. Raises as `open_source` and `Offer` do."""
    with contextlib.closing(open_source(location)) as source:
        if source.remote and read_settings().offline:
            raise DownloadFailed(f"LEAP_ZOO_OFFLINE is 1, and {source.name} is not on this device: unset it")
        yield Offer(source)


class FolderSource(Source):
    """A zoo or a model in a folder, for example on a stick. Links that lead out of it are refused."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        if not os.path.isdir(folder):
            raise InvalidArgument(f"{short(folder)} is no folder: give the folder that holds index.json, or a URL")

    def read(self, path: str, limit: int, *, optional: bool = False) -> bytes | None:
        """See `Source`."""
        whole = self._folder / path
        try:
            data = read_inside(self._folder, whole, limit)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ArtifactCorrupt(f"{short(whole)} cannot be read ({error.strerror}): mend the zoo") from error
        if len(data) > limit:
            raise ArtifactCorrupt(f"{short(whole)} is larger than {limit} bytes: refused")
        return data

    def holds(self, path: str) -> bool:
        """See `Source`."""
        return os.path.isfile(self._folder / path)


class HubSource(Source):
    """`hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`, by `huggingface_hub` (extra `hub`): its tokens, endpoint, cache.

    What it downloads is a file on this device, which is then read, bounded and checked as from any other folder.
    """

    remote = True

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        path, _, revision = parts.path.strip("/").partition("@")
        if not path or "/" in path or parts.netloc.count("@"):
            raise InvalidArgument(f"{short(url)} is no repository: give hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
        try:
            import huggingface_hub  # noqa: F401
        except ImportError as error:
            raise MissingExtra(f"{short(url)} needs huggingface_hub: pip install 'leap-zoo[hub]'") from error
        self.name = url
        self._repository = f"{parts.netloc}/{path}"
        self._revision = revision or None

    def read(self, path: str, limit: int, *, optional: bool = False) -> bytes | None:
        """See `Source`. Its size is asked for before it is downloaded."""
        import huggingface_hub as hub
        from huggingface_hub import errors

        large = f"{self.what(path)} has more than {limit} bytes: refused"
        try:
            with contextlib.suppress(errors.OfflineModeIsEnabled):  # then the download takes what its cache has
                url = hub.hf_hub_url(self._repository, path, revision=self._revision)
                if (hub.get_hf_file_metadata(url).size or 0) > limit:
                    raise ArtifactCorrupt(large)
            data = read_regular(Path(hub.hf_hub_download(self._repository, path, revision=self._revision)), limit)
        except LeapZooError:
            raise
        except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
            if optional or path == "index.json":  # without it, card.json says whether there is a model
                return None
            raise DownloadFailed(f"{self.what(path)}: no connection to the hub, or HF_HUB_OFFLINE is set") from error
        except errors.EntryNotFoundError:
            return None
        except Exception as error:  # its own, the system's, and those of the HTTP library that its version uses
            reason = masked(str(error).strip().split("\n")[0][:200]) or type(error).__name__
            raise DownloadFailed(
                f"{self.what(path)}: {reason}: check the name and the network, and `hf auth login`"
            ) from error
        if len(data) > limit:
            raise ArtifactCorrupt(large)
        return data
