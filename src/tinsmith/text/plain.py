"""Files of plain text, whole."""

import codecs
import gzip
import zlib
from pathlib import Path

from tinsmith.errors import DataError, did_you_mean


def read_text(path: Path) -> str:
    """A file of text, also gzipped; line ends become ``\\n``.

    Raises:
        DataError: no such file, not UTF-8 (names line and column), or nothing in it.
    """
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "a folder; name a file in it" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}.{did_you_mean(path.name, beside)}")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file: {error}; get it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise DataError(f"{path}:{line}: a NUL byte; is the file really text?")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise DataError(
            f"{path}:{line}:{column}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    if not text.strip():
        raise DataError(f"{path}: an empty file; there is nothing to learn from")
    return text.replace("\r\n", "\n")


def read_lines(path: Path) -> list[str]:
    """The lines of a file of text, empty ones too; what else Unicode knows as a line's end is none."""
    lines = read_text(path).split("\n")
    return lines[:-1] if not lines[-1] else lines
