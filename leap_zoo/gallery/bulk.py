"""Bulk work on galleries: Parquet vectors into any gallery; of a Qdrant collection, quantized vectors and snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from leap_zoo.errors import InvalidArgument, InvalidGallery, short
from leap_zoo.files import failing_as, open_regular, saved_file
from leap_zoo.gallery import Gallery, Kind, open_gallery
from leap_zoo.gallery.qdrant import PORT, QdrantGallery, asking, connect
from leap_zoo.settings import read_settings

if TYPE_CHECKING:
    import httpx

QUANTIZED = ("int8", "binary")
SECONDS = 3600  # for a snapshot to be made, sent or restored


def load_vectors(location: str, place: str, kind: Kind | None = None) -> tuple[Gallery, int]:
    """Add the vectors of Parquet files (of `leap-zoo embed --engine ray`) to the gallery at `location`.

    kind: whose they are, where the files do not say so. An id that is there is replaced: loading twice changes nothing.
    Returns the open gallery and how many were added. Raises InvalidArgument, InvalidGallery, MissingExtra.
    """
    from leap_zoo.shards import read_vectors

    gallery, added = None, 0
    for theirs, ids, vectors in read_vectors(place):
        found = theirs or kind
        if found is None:
            raise InvalidArgument(f"{short(place)} does not say whose vectors it holds: give --model and --space")
        if kind is not None and found != kind:
            raise InvalidArgument(f"{short(place)} holds vectors of {found}, not of {kind}: give the model it is of")
        kind = found
        if gallery is None:
            gallery = open_gallery(location, kind=kind)
        last = {name: number for number, name in enumerate(ids)}  # of one id twice, the later row
        gallery.add(list(last), vectors[list(last.values())])
        added += len(last)
    if gallery is None:
        raise InvalidArgument(f"{short(place)} holds no vectors: was the input empty?")
    return gallery, added


def quantize(gallery: Gallery, how: str) -> None:
    """Keep vectors of `int8` or `binary` in memory and the float ones on disk, where the best are scored again.

    Raises InvalidArgument for a gallery in a folder, InvalidGallery.
    """
    if not isinstance(gallery, QdrantGallery):
        raise InvalidArgument("vectors are quantized by a Qdrant server: give --gallery qdrant://HOST:PORT/COLLECTION")
    models = gallery.models
    settings: Any
    if how == "int8":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        settings = models.ScalarQuantization(scalar=scalar)
    elif how == "binary":
        settings = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    else:
        raise InvalidArgument(f"vectors are quantized to {' or '.join(QUANTIZED)}, not {short(how)}")
    with asking(gallery.collection):
        gallery.client.update_collection(
            gallery.collection, vectors_config={"": models.VectorParamsDiff(on_disk=True)}, quantization_config=settings
        )


def save_snapshot(url: str, file: Path) -> int:
    """Make a snapshot of a collection on its server and fetch it into `file`; returns its size in bytes.

    The server's copy is deleted afterwards. Raises InvalidArgument, InvalidGallery, MissingExtra.
    """
    with _server(url) as http:
        place = f"/snapshots/{http.post('/snapshots').json()['result']['name']}"
        try:
            with saved_file(file) as target, http.stream("GET", place) as answer:
                for chunk in answer.iter_bytes(1 << 20):
                    target.write(chunk)
        finally:
            http.delete(place)
    return file.stat().st_size


def restore_snapshot(url: str, file: Path) -> None:
    """Make the collection what `file` holds, on this server or another one. What was there is replaced."""
    opened = failing_as(InvalidArgument, f"cannot read {short(file)}", "check the path")
    with opened, open_regular(file) as snapshot, _server(url) as http:
        http.post("/snapshots/upload?priority=snapshot&wait=true", files={"snapshot": (file.name, snapshot)})


@contextmanager
def _server(url: str) -> Iterator[httpx.Client]:
    """For the REST calls about a collection's snapshots, whose files qdrant_client does not send or fetch."""
    import httpx

    client, collection = connect(url)
    client.close()

    def check(answer: httpx.Response) -> None:
        if answer.is_error:
            text = " ".join(answer.read().decode(errors="replace").split())[:200]
            raise InvalidGallery(
                f"Qdrant refuses this for {collection} ({answer.status_code} {text}): check the collection and "
                "LEAP_ZOO_QDRANT_KEY"
            )

    parts, key = urlsplit(url), read_settings().qdrant_key
    base = f"{parts.scheme.replace('qdrant', 'http')}://{parts.hostname}:{parts.port or PORT}/collections/{collection}"
    headers = {"api-key": key} if key else {}
    try:
        with httpx.Client(base_url=base, timeout=SECONDS, headers=headers, event_hooks={"response": [check]}) as http:
            yield http
    except httpx.HTTPError as error:
        raise InvalidGallery(f"the Qdrant server does not answer ({error}): is it up?") from error
