"""A Parquet file as the TLC publishes it since 2022, for all years, as a stream of `Chunk`s; see `read`.

Whatever type a column has, its values become the text that a CSV file of the same month would hold, so that both
formats meet the same casts and tests in SQL: integers and decimals as digits, a whole number without a fraction (`1`,
not `1.0`), times as `2021-01-01 00:30:10`. What is null stays null. Memory is bounded by the batch, however large a
row group is; page checksums are verified where the file has them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefect_flows.errors import FileRefused
from prefect_flows.read import MAX_CELL_BYTES, MAX_FILE_BYTES, Chunk, Reject, as_batch, lacks_columns, readable
from prefect_flows.tlc import Binding, bind, knows_any

BATCH_ROWS = 16_384
# A page's bytes are read as they are needed, and not a whole column of a row group at once.
BUFFER_BYTES = 1 << 20
# About six times the largest published month: a few bytes can claim any number of equal rows.
MAX_ROWS = 100_000_000


class ParquetReader:
    """A month's Parquet file, opened; see `Reader`.

    Raises:
        FileRefused: on opening, when it is not a month of yellow-taxi trips or has columns that are no single values;
            while iterating, when the file turns out to be damaged.
    """

    def __init__(self, path: Path, *, batch_rows: int = BATCH_ROWS) -> None:
        self._name = path.name
        self._batch_rows = batch_rows
        self._rows = 0
        with self._in_words():
            self._file = pq.ParquetFile(
                path,
                page_checksum_verification=True,
                buffer_size=BUFFER_BYTES,
                pre_buffer=False,
                # In nanoseconds a time after 2262 would be another time, without an error.
                coerce_int96_timestamp_unit="us",
            )
        try:
            with self._in_words():
                schema = self._file.schema_arrow
            self.header = ",".join(schema.names)
            self.binding = _bind(self._name, schema)
            self._check_size()
        except BaseException:
            self._file.close()
            raise

    @property
    def share(self) -> float:
        """See `Reader`."""
        return self._rows / max(int(self._file.metadata.num_rows), 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Chunk]:
        self._rows = 0
        with self._in_words():
            for batch in self._file.iter_batches(batch_size=self._batch_rows):
                first = self._rows + 1
                self._rows += batch.num_rows
                yield self._chunk(batch, first)
        if self._rows != self._file.metadata.num_rows:
            raise FileRefused(
                f"{self._name} says that it has {self._file.metadata.num_rows:,} rows, but {self._rows:,} are in it: "
                "download it again."
            )

    def _check_size(self) -> None:
        metadata = self._file.metadata
        size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        if metadata.num_rows > MAX_ROWS or size > MAX_FILE_BYTES:
            raise FileRefused(
                f"{self._name} unpacks to {metadata.num_rows:,} rows and {size:,} bytes, which no month does: "
                "check where it came from."
            )

    def _chunk(self, batch: pa.RecordBatch, first: int) -> Chunk:
        batch = pa.RecordBatch.from_arrays([_dense(column) for column in batch.columns], batch.schema.names)
        numbers = np.arange(first, first + batch.num_rows)
        broken = _broken_rows(batch)
        rejects = [
            Reject(first + row, reason, _row_text(batch.slice(row, 1))) for row, reason in sorted(broken.items())
        ]
        if broken:
            keep = np.ones(batch.num_rows, bool)
            keep[list(broken)] = False
            batch, numbers = batch.filter(pa.array(keep)), numbers[keep]
        return Chunk(as_batch([_as_text(column) for column in batch.columns], self.binding, numbers), rejects)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if "encrypt" in str(error) or "decrypt" in str(error):
                raise FileRefused(f"{self._name} is an encrypted Parquet file: give it decrypted.") from None
            cause = " ".join(str(error).split()).rstrip(".")
            raise FileRefused(f"{self._name} is a damaged Parquet file ({cause}): download it again.") from None


def _bind(name: str, schema: pa.Schema) -> Binding:
    try:
        binding = bind(schema.names)
    except ValueError as error:
        if not knows_any(schema.names):
            raise _no_column_known(name, schema.names) from None
        raise FileRefused(f"The columns of {name} are not clear, {error}: correct the file.") from None
    if not binding.columns:
        raise _no_column_known(name, schema.names)
    if binding.missing:
        raise lacks_columns(name, [" ".join(n.split()) for n in schema.names], binding.missing)
    for position in binding.columns.values():
        column = schema.field(position)
        if pa.types.is_timestamp(column.type) and column.type.tz:
            raise FileRefused(
                f"The times in {column.name} of {name} are in the zone {column.type.tz}, and the TLC's are New York's "
                "own without a zone: write the file without one."
            )
        if not _is_single_value(column.type):
            raise FileRefused(
                f"The column {column.name} of {name} is of type {str(column.type)[:80]}, which is no single value: "
                "give the file as the TLC publishes it."
            )
    return binding


def _no_column_known(name: str, names: list[str]) -> FileRefused:
    told = " ".join(", ".join(names).split())[:80] or "no column"
    return FileRefused(
        f"{name} has none of the columns of yellow-taxi trips, but {told}: give a month as the TLC publishes it."
    )


def _dense(column: pa.Array) -> pa.Array:
    """A column in one of the plain types: no extension, no dictionary, no view of text."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        column = column.cast(pa.binary_view()).cast(pa.large_binary())
    return column


def _is_single_value(kind: pa.DataType) -> bool:
    try:
        pa.nulls(0, kind).cast(pa.string())
    except pa.ArrowException:
        return False
    return True


def _as_text(column: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(column.type):
        try:
            column = column.cast(pa.timestamp("s", column.type.tz))
        except pa.ArrowInvalid:  # a fraction of a second in one row, which its neighbours must not show
            return pc.replace_substring_regex(column.cast(pa.string()), r"\.0+(Z|[+-]\d+)?$", r"\1")
    elif not _is_single_value(column.type):  # not one of the catalogue's columns
        values = column.to_pylist()
        return pa.array([None if value is None else json.dumps(value, default=_plain) for value in values], pa.string())
    return column.cast(pa.string())


def _broken_rows(batch: pa.RecordBatch) -> dict[int, str]:
    """The rows of a batch whose text no database keeps, and why."""
    broken: dict[int, str] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if _holds_bytes(column.type) and not _is_sound(column):
            for row, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
                if value is not None and (reason := _fault(value)):
                    broken.setdefault(row, f"{name} {reason}")
        elif not _is_single_value(column.type):
            for row, value in enumerate(column):
                if not _has_value(value):
                    broken.setdefault(row, f"{name} holds what cannot be written as JSON")
    return broken


def _has_value(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except (ValueError, OverflowError):  # text that is not UTF-8, a time that no calendar has, a name twice
        return False
    return True


def _holds_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_sound(column: pa.Array) -> bool:
    raw = column.cast(pa.large_binary())
    if (pc.max(pc.binary_length(raw)).as_py() or 0) > MAX_CELL_BYTES or pc.any(pc.match_substring(raw, "\0")).as_py():
        return False
    try:
        raw.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _fault(value: bytes) -> str | None:
    if len(value) > MAX_CELL_BYTES:
        return f"is longer than {MAX_CELL_BYTES:,} bytes"
    if b"\0" in value:
        return "holds a NUL byte"
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8 at byte {error.start + 1}"
    return None


def _row_text(row: pa.RecordBatch) -> str:
    """A rejected row as JSON; bytes that are no text are written as `\\xNN`."""
    values = {name: _shown(column) for name, column in zip(row.schema.names, row.columns, strict=True)}
    return readable(json.dumps(values, default=_plain, ensure_ascii=False).encode())


def _shown(column: pa.Array) -> Any:
    if _holds_bytes(column.type):
        return column.cast(pa.large_binary())[0].as_py()
    if _has_value(column[0]):
        return column[0].as_py()
    return column.cast(pa.string())[0].as_py() if _is_single_value(column.type) else "?"


def _plain(value: Any) -> str:
    return readable(value) if isinstance(value, bytes) else str(value)
