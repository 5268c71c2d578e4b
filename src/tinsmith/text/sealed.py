"""A folder of files that shows any damage: ``MANIFEST.json``, written last, has the size and digest of each.

What a checkpoint's manifest is to a resume (``engine.checkpoint``), this is to who uses a model.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from tinsmith.durable import replace_bytes
from tinsmith.errors import DataError

MANIFEST = "MANIFEST.json"


def seal(folder: Path, names: Iterable[str]) -> None:
    """Note the size and the xxh3-128 digest of the files ``names``, which are in ``folder`` already."""
    files = {name: _entry((folder / name).read_bytes()) for name in names}
    replace_bytes(folder / MANIFEST, json.dumps({"format": 1, "files": files}, indent=1).encode())


def read_sealed(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The content of the files ``names``, each as it was when ``seal`` saw it.

    Raises:
        FileNotFoundError: the manifest or a file is not there.
        DataError: a file is another than that of the manifest, or the manifest does not have it; names it.
    """
    known = _manifest(folder / MANIFEST)
    found = {}
    for name in names:
        path = folder / name
        data, entry = path.read_bytes(), known.get(name)
        if not isinstance(entry, dict):
            raise DataError(f"damaged: {folder / MANIFEST} has no entry of {name}")
        if entry.get("size") != len(data):
            raise DataError(f"damaged: {path} has {len(data)} bytes of {entry.get('size')}")
        if entry != _entry(data):
            raise DataError(f"damaged: the content of {path} does not match its digest")
        found[name] = data
    return found


def _entry(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}


def _manifest(path: Path) -> dict[str, Any]:
    try:
        files = json.loads(path.read_bytes())["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"damaged: {path} is not a manifest ({error})") from None
    if not isinstance(files, dict):
        raise DataError(f"damaged: {path} lists no files")
    return files
