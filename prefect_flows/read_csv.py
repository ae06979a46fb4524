"""A CSV file as the TLC publishes it, plain or gzip, as a stream of `Chunk`s; see `read`.

Every line after the header is landed, rejected or counted as blank. Memory is bounded by the block size.

A record is one line: no published file has a line break inside a field, and a quote that is never closed must not
swallow the rows behind it. So each line stands alone, and a fault in one never reaches its neighbours. A block of
ordinary lines is parsed by Arrow; a block with anything unusual in it goes line by line, by the same rules, in
`_parse_lines`, which is the definition of what a line means.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from prefect_flows.errors import FileRefused
from prefect_flows.read import (
    MAX_CELL_BYTES,
    MAX_FILE_BYTES,
    Chunk,
    Reject,
    as_batch,
    first_bytes,
    lacks_columns,
    readable,
)
from prefect_flows.tlc import Binding, bind, knows_any

BLOCK_BYTES = 2 << 20
MAX_LINE_BYTES = BLOCK_BYTES
# Published months have up to two fields more than names; a line with very many is not read column by column.
MAX_SURPLUS_FIELDS = 8

# RFC 4180: a field is quoted as a whole, its own quotes doubled, or holds no quote.
_QUOTED_FIELD = r'(?:"(?:[^"]|"")*"|[^",]*)'
_QUOTED_LINE = re.compile(rf"{_QUOTED_FIELD}(?:,{_QUOTED_FIELD})*")

_BOM, _GZIP = b"\xef\xbb\xbf", b"\x1f\x8b"
_OTHER_FORMATS = {
    b"PK\x03\x04": "a ZIP archive",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


class CsvReader:
    """A month's CSV file, opened; see `Reader`. `header` is the header line as it stands in the file.

    Raises:
        FileRefused: on opening, when the header is not that of a month of yellow-taxi trips; while iterating, when
            the file turns out to be damaged or is too large.
    """

    def __init__(self, path: Path, *, block_bytes: int = BLOCK_BYTES) -> None:
        self._path = path
        self._block_bytes = block_bytes
        self._bytes = 0
        self._width: int | None = None
        self._file = _open(path)
        self._size = path.stat().st_size
        try:
            self._lines = self._read_blocks()
            self.header, self.binding, self._rest = self._read_header()
        except BaseException:
            self._file.close()
            raise

    @property
    def share(self) -> float:
        """See `Reader`; of the file as it lies on the disk, as what a gzip unpacks to is not known before its end."""
        on_disk: IO[bytes] = getattr(self._file, "fileobj", self._file)
        return on_disk.tell() / self._size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Chunk]:
        line = 2
        for block in self._blocks_after_header():
            yield self._parse(block, line)
            line += block.count(b"\n") + (not block.endswith(b"\n"))

    def _blocks_after_header(self) -> Iterator[bytes]:
        if self._rest:
            yield self._rest
        yield from self._lines

    def _read_blocks(self) -> Iterator[bytes]:
        """Whole lines, about a block's worth at a time; only the last may lack its line end."""
        rest = b""
        while block := self._read():
            block = rest + block
            end = block.rfind(b"\n") + 1
            rest = block[end:]
            if end:
                yield block[:end]
            elif len(rest) > MAX_LINE_BYTES + 1:
                # Not a line of trips; what is kept of it is too long to be one, even without a CR at its end.
                rest = self._skip_line(rest[: MAX_LINE_BYTES + 2])
        if rest:
            yield rest

    def _skip_line(self, start: bytes) -> bytes:
        while block := self._read():
            end = block.find(b"\n")
            if end >= 0:
                return start + block[end:]
        return start

    def _read(self) -> bytes:
        try:
            block = self._file.read(self._block_bytes)
        except EOFError:
            raise FileRefused(f"{self._path.name} is a gzip file that ends too early: download it again.") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise FileRefused(f"{self._path.name} is a damaged gzip file ({error}): download it again.") from None
        self._bytes += len(block)
        if self._bytes > MAX_FILE_BYTES:
            raise FileRefused(
                f"{self._path.name} unpacks to more than {MAX_FILE_BYTES >> 30} GiB, which no month does: "
                "check where it came from."
            )
        return block

    def _read_header(self) -> tuple[str, Binding, bytes]:
        first = next(self._lines, b"")
        line, _, rest = first.partition(b"\n")
        return *_header(self._path.name, line), rest

    def _parse(self, block: bytes, line: int) -> Chunk:
        if self._width is None:
            # Some months have more fields than names (2016-07 to 2016-12); the first row tells how many.
            first = next((row for row in block.split(b"\n") if row.strip()), b"")
            named = self.binding.width
            self._width = max(named, min(first.count(b",") + 1, named + MAX_SURPLUS_FIELDS))
        plain = block.replace(b"\r\n", b"\n")
        if _ordinary(plain) and (table := self._parse_block(plain)) is not None:
            fields = [column.combine_chunks() for column in table.columns]
            return Chunk(as_batch(fields, self.binding, np.arange(line, line + table.num_rows)))
        return self._parse_lines(block, line)

    def _parse_block(self, block: bytes) -> pa.Table | None:
        """A block of ordinary lines; None when a line in it is not so ordinary after all."""
        names = [str(position) for position in range(self._width or 0)]
        broken: list[object] = []

        def keep(row: object) -> str:
            broken.append(row)
            return "skip"

        try:
            table = pa_csv.read_csv(
                pa.BufferReader(block),
                read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 1),
                parse_options=pa_csv.ParseOptions(quote_char=False, double_quote=False, invalid_row_handler=keep),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid:
            return None
        surplus = names[self.binding.width :]
        if broken or any(_longest(table[name]) for name in surplus):
            return None
        return table

    def _parse_lines(self, block: bytes, line: int) -> Chunk:
        rows: list[list[str]] = []
        numbers: list[int] = []
        rejects: list[Reject] = []
        blank = 0
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for number, ended in enumerate(lines, line):
            raw = ended.removesuffix(b"\r")
            if len(raw) <= MAX_LINE_BYTES and not raw.strip():
                blank += 1
                continue
            try:
                rows.append(_fields(raw, self.binding.width))
                numbers.append(number)
            except ValueError as error:
                rejects.append(Reject(number, str(error), readable(raw)))
        columns = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
        return Chunk(as_batch(columns, self.binding, np.array(numbers, np.int64)), rejects, blank)


def _open(path: Path) -> IO[bytes]:
    magic = first_bytes(path)
    if not magic:
        raise FileRefused(f"{path.name} is empty: download it again.")
    for start, what in _OTHER_FORMATS.items():
        if magic.startswith(start):
            raise FileRefused(f"{path.name} is {what}: give it as Parquet or UTF-8 CSV, plain or gzip.")
    if magic.startswith(_GZIP):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _header(name: str, line: bytes) -> tuple[str, Binding]:
    line = line.removeprefix(_BOM).rstrip(b"\r")
    if not line.strip():
        raise FileRefused(f"{name} has no header line: it is not a month of yellow-taxi trips.")
    if b"\0" in line:
        raise FileRefused(f"{name} is UTF-16 or binary: give it as UTF-8 CSV, plain or gzip.")
    if b"\r" in line:
        raise FileRefused(f"The lines of {name} end in a lone carriage return: convert them to LF or CR LF.")
    start = line.lstrip()[:1]
    if start in (b"<", b"{", b"["):
        what = "an HTML page" if start == b"<" else "JSON"
        raise FileRefused(f"{name} is {what}, not a month of yellow-taxi trips: check the address it came from.")
    try:
        text = line.decode()
        names = next(csv.reader([text], strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise FileRefused(f"The header of {name} is not UTF-8 CSV: it is not a month of yellow-taxi trips.") from None
    try:
        binding = bind(names)
    except ValueError as error:
        if not knows_any(names):
            raise FileRefused(_no_column_known(name, text)) from None
        raise FileRefused(f"The header of {name} is not clear, {error}: correct the file.") from None
    if binding.missing:
        raise _wrong_header(name, text, names, binding)
    return text, binding


def _wrong_header(name: str, text: str, names: list[str], binding: Binding) -> FileRefused:
    for separator, what in {";": "semicolons", "\t": "tabs"}.items():
        with suppress(ValueError):
            if not bind(text.split(separator)).missing:
                return FileRefused(f"The fields of {name} are separated by {what}: convert it to commas.")
    if not binding.columns:
        return FileRefused(_no_column_known(name, text))
    return lacks_columns(name, names, binding.missing)


def _no_column_known(name: str, text: str) -> str:
    return (
        f"{name} has none of the columns of yellow-taxi trips; its first line is {text[:80]!r}: "
        "give a file that starts with the TLC's header."
    )


def _ordinary(block: bytes) -> bool:
    """Whether Arrow's reader and `_parse_lines` cannot differ on a block, its CR LF already made LF."""
    if b'"' in block or b"\r" in block or b"\0" in block or b"\n\n" in block or block.startswith((b"\n", _BOM)):
        return False
    if not block.isascii():
        try:
            block.decode()
        except UnicodeDecodeError:
            return False
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    return bool(np.diff(ends, prepend=-1, append=len(block)).max() <= MAX_CELL_BYTES)


def _fields(raw: bytes, width: int) -> list[str]:
    """The fields of one line.

    Raises:
        ValueError: the line is not a row; the text says why.
    """
    if len(raw) > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    if b"\0" in raw:
        raise ValueError("it holds a NUL byte")
    if b"\r" in raw:
        raise ValueError("it holds a carriage return")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start + 1}") from None
    fields = text.split(",") if '"' not in text else _quoted_fields(text)
    # Published months carry surplus empty fields (2016-07 to 2016-12); surplus text has no column to go to.
    if len(fields) < width or any(fields[width:]):
        raise ValueError(f"expected {width} fields, found {len(fields)}")
    if len(raw) > MAX_CELL_BYTES and max(len(value.encode()) for value in fields) > MAX_CELL_BYTES:
        raise ValueError(f"a field is longer than {MAX_CELL_BYTES:,} bytes")
    return fields[:width]


def _quoted_fields(text: str) -> list[str]:
    # The csv module takes a quote inside an unquoted field as text; here it is a sign of damage.
    if not _QUOTED_LINE.fullmatch(text):
        raise ValueError("it holds a quote that is stray or never closed")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error:  # the csv module's own limit of a field, far above ours
        raise ValueError(f"a field is longer than {MAX_CELL_BYTES:,} bytes") from None


def _longest(column: pa.ChunkedArray) -> int:
    return int(pc.max(pc.binary_length(column)).as_py() or 0)
