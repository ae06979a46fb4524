"""A month's file becomes Arrow batches of text, and the rows that are broken.

Comes in: a verified local file; its format is told by its bytes, not by its name. Goes out: a reader, which streams
the file as `Chunk`s in its order. Every row of the file ends up in exactly one of three places: a landed row, a
rejected row with its number, reason and text, or the count of blank lines. `read_csv` and `read_parquet` are the
formats.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import pyarrow as pa

from prefect_flows.errors import FileRefused
from prefect_flows.tlc import COLUMN_NAMES, Binding

# CrateDB stores no TEXT longer than this in a column with a column store (Lucene's limit of a term).
MAX_CELL_BYTES = 32_766
# About four times the largest published month (2009 to 2014, up to 2.8 GB as CSV): more is a decompression bomb.
MAX_FILE_BYTES = 12 << 30

SCHEMA = pa.schema(
    [("_source_row", pa.int64()), *((name, pa.string()) for name in COLUMN_NAMES), ("_extra", pa.string())]
)

# The second one is a Parquet file whose footer is encrypted.
_PARQUET = (b"PAR1", b"PARE")


@dataclass(frozen=True)
class Reject:
    """A row that cannot land: its number, why, and its text.

    The number is the line in a CSV file (the header's is 1) and the row in a Parquet file (the first is 1).
    """

    line: int
    reason: str
    text: str


@dataclass
class Chunk:
    """Part of a file: a batch of `SCHEMA`, the rejected rows, and how many lines were blank."""

    batch: pa.RecordBatch
    rejects: list[Reject] = field(default_factory=list)
    blank: int = 0

    @property
    def rows(self) -> int:
        """Data rows in this part of the file, landed and rejected."""
        return int(self.batch.num_rows) + len(self.rejects)


class Reader(Protocol):
    """A month's file, opened; a context manager to iterate once.

    Attributes:
        header: the column names as they stand in the file, a comma between them.
        binding: which field is which column; `binding.unknown` is the schema drift.
    """

    header: str
    binding: Binding

    @property
    def share(self) -> float:
        """How much of the file has been read, from 0 to 1."""

    def __enter__(self) -> Self:
        """Give the reader itself."""

    def __exit__(self, *error: object) -> None:
        """Close the file."""

    def __iter__(self) -> Iterator[Chunk]:
        """Read the file.

        Raises:
            FileRefused: it turns out to be damaged or too large.
        """


def open_month(path: Path) -> Reader:
    """Open a month's file as what it is: Parquet, or CSV, plain or gzip.

    Raises:
        FileRefused: it cannot be read, or is not a month of yellow-taxi trips.
    """
    if first_bytes(path).startswith(_PARQUET):
        from prefect_flows.read_parquet import ParquetReader

        return ParquetReader(path)
    from prefect_flows.read_csv import CsvReader

    return CsvReader(path)


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file, by which its format is told.

    Raises:
        FileRefused: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise FileRefused(f"{path} cannot be read ({error.strerror}): check its permissions.") from None


def lacks_columns(name: str, names: Sequence[str], missing: Sequence[str]) -> FileRefused:
    """The refusal of a file that lacks required columns."""
    return FileRefused(
        f"{name} lacks the required columns {', '.join(missing)}; "
        f"it has {', '.join(n.strip() for n in names)}: give the file as the TLC publishes it."
    )


def as_batch(fields: Sequence[pa.Array], binding: Binding, numbers: np.ndarray) -> pa.RecordBatch:
    """Fields in the file's order, each an array of text, become a batch of `SCHEMA`."""
    nothing = pa.nulls(len(numbers), pa.string())

    def at(position: int) -> pa.Array:
        return fields[position] if fields else nothing  # a block without a row has no fields either

    bound, unknown = binding.columns, binding.unknown
    columns = [at(bound[name]) if name in bound else nothing for name in COLUMN_NAMES]
    extra = _as_json({name: at(position) for name, position in unknown.items()}) if unknown else nothing
    return pa.RecordBatch.from_arrays([pa.array(numbers), *columns, extra], schema=SCHEMA)


def readable(raw: bytes) -> str:
    """A rejected row as text that any database keeps: bytes that are no text are written as `\\xNN`."""
    return raw[:MAX_CELL_BYTES].decode(errors="backslashreplace").replace("\0", "\\x00")


def _as_json(extra: dict[str, pa.Array]) -> pa.Array:
    """One JSON object a row, of the fields that the catalogue does not know."""
    rows = zip(*(column.to_pylist() for column in extra.values()), strict=True)
    return pa.array([json.dumps(dict(zip(extra, row, strict=True)), ensure_ascii=False) for row in rows], pa.string())
