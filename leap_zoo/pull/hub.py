"""A zoo in a repository of the Hugging Face hub, by `huggingface_hub` (extra `hub`): its tokens, endpoint and cache.

What it downloads is a file on this device, which is then read, bounded and checked as from any other folder.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import urlsplit

from leap_zoo.card import File
from leap_zoo.errors import ArtifactCorrupt, DownloadFailed, InvalidArgument, MissingExtra, short
from leap_zoo.progress import Progress
from leap_zoo.pull.sources import copy_whole
from leap_zoo.pull.unfinished import Partial
from leap_zoo.zoo import read_regular


class HubSource:
    """The zoo at `hf://org/repo`, or `hf://org/repo@revision`. HF_HUB_OFFLINE and the like are respected."""

    remote = True

    def __init__(self, url: str) -> None:
        try:
            import huggingface_hub  # noqa: F401
        except ImportError as error:
            raise MissingExtra(f"{short(url)} needs huggingface_hub: pip install 'leap-zoo[hub]'") from error
        parts = urlsplit(url)
        path, _, revision = parts.path.strip("/").partition("@")
        if not path or "/" in path or parts.netloc.count("@"):
            raise InvalidArgument(f"{short(url)} is no repository: give hf://org/repo or hf://org/repo@revision")
        self.name = url
        self._repository = f"{parts.netloc}/{path}"
        self._revision = revision or None

    def read(self, path: str, limit: int, *, optional: bool = False) -> bytes | None:
        """See `Source`."""
        local = self._local(path, limit, optional)
        if local is None:
            return None
        data = read_regular(local, limit)
        if len(data) > limit:
            raise ArtifactCorrupt(f"{self.name}/{path} is larger than {limit} bytes: refused")
        return data

    def fetch(self, path: str, published: File, partial: Partial, progress: Progress) -> None:
        """See `Source`. huggingface_hub resumes by itself, in its own cache."""
        copy_whole(self.read(path, published.bytes), f"{self.name}/{path}", partial, progress)

    def close(self) -> None:
        """Nothing to close."""

    def _local(self, path: str, limit: int, optional: bool) -> Path | None:
        """The file in huggingface_hub's cache. Its size is asked for before it is downloaded."""
        import httpx
        import huggingface_hub as hub
        from huggingface_hub import errors

        try:
            with contextlib.suppress(errors.OfflineModeIsEnabled):  # then the download takes what its cache has
                size = hub.get_hf_file_metadata(hub.hf_hub_url(self._repository, path, revision=self._revision)).size
                if size is not None and size > limit:
                    raise ArtifactCorrupt(f"{self.name}/{path} has {size} bytes, more than {limit}: refused")
            return Path(hub.hf_hub_download(self._repository, path, revision=self._revision))
        except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
            if optional:
                return None
            raise DownloadFailed(f"{self.name}/{path}: no connection to the hub, or HF_HUB_OFFLINE is set") from error
        except errors.EntryNotFoundError:
            return None
        except (errors.HfHubHTTPError, errors.HFValidationError, httpx.HTTPError, OSError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise DownloadFailed(f"{self.name}/{path}: {reason}: check the name, and `hf auth login`") from error
