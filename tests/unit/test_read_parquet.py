"""The Parquet reader: every row is landed with the text that a CSV file would hold, or rejected by its number.

The properties hold the reader against the CSV reader, and against what a broken cell is, written down here a second
time in `fault`.
"""

import base64
import gzip
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.parquet import encryption

from prefect_flows import read_parquet
from prefect_flows.errors import FileRefused
from prefect_flows.read import MAX_CELL_BYTES, open_month
from prefect_flows.read_csv import CsvReader
from prefect_flows.read_parquet import BATCH_ROWS, ParquetReader
from tests.unit.reading import HEADER, NAME, NAMES, ROW, Read, examples, landed, read_whole, refused
from tests.unit.test_tlc import HEADERS

FLAG, PICKUP, COUNT = "store_and_fwd_flag", "tpep_pickup_datetime", "passenger_count"
# The types of the published files of 2021.
TYPES = dict.fromkeys(NAMES, pa.float64()) | {
    **dict.fromkeys(["VendorID", "PULocationID", "DOLocationID", "payment_type"], pa.int64()),
    **dict.fromkeys([PICKUP, "tpep_dropoff_datetime"], pa.timestamp("us")),
    FLAG: pa.string(),
}
LANDED = landed() | {"trip_distance": "2.1"}


def month(rows: int = 3, **columns: pa.Array) -> pa.Table:
    """Some rows that are all `ROW`; the columns given take the place of its own, or stand behind them."""
    cells = zip(NAMES, ROW.decode().split(","), strict=True)
    return pa.table({name: pa.array([cell] * rows).cast(TYPES[name]) for name, cell in cells} | columns)


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def read(path: Path, batch_rows: int = BATCH_ROWS) -> Read:
    return read_whole(ParquetReader(path, batch_rows=batch_rows))


def extras(result: Read) -> list[dict[str, str | None]]:
    return [json.loads(values["_extra"] or "{}") for values in result.values]


# --- the same month as Parquet and as CSV


def whole(low: int, high: int) -> st.SearchStrategy[tuple[Any, str]]:
    return st.integers(low, high).map(lambda number: (number, str(number)))


def cents(most: int) -> st.SearchStrategy[tuple[Any, str]]:
    return st.integers(-most, most).map(lambda n: (n / 100, f"{Decimal(n).scaleb(-2).normalize():f}"))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=8).map(lambda t: (t, t))
PRICES = st.integers(-(10**17), 10**17).map(lambda n: Decimal(n).scaleb(-2)).map(lambda price: (price, f"{price:.2f}"))
TIME = st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1)).map(
    lambda time: (time.replace(microsecond=0), f"{time:%Y-%m-%d %H:%M:%S}")
)
# Values of each type, with the text that a CSV file has for them.
KINDS: dict[pa.DataType, st.SearchStrategy[tuple[Any, str]]] = {
    pa.int8(): whole(-128, 127),
    pa.int32(): whole(-(1 << 31), (1 << 31) - 1),
    pa.int64(): whole(-(1 << 63), (1 << 63) - 1),
    pa.uint64(): whole(0, (1 << 64) - 1),
    pa.float64(): cents(10**11),
    pa.float32(): cents(10**5),
    pa.decimal128(18, 2): PRICES,
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.dictionary(pa.int32(), pa.string()): TEXT,
    **{pa.timestamp(unit): TIME for unit in ("s", "ms", "us", "ns")},
    pa.date32(): st.dates(date(1700, 1, 1)).map(lambda day: (day, day.isoformat())),
    pa.null(): st.nothing(),
}
LAYOUT = st.fixed_dictionaries(
    {
        "row_group_size": st.integers(1, 9),
        "use_dictionary": st.booleans(),
        "data_page_version": st.sampled_from(["1.0", "2.0"]),
        "data_page_size": st.sampled_from([1, 1 << 20]),
        "compression": st.sampled_from(["none", "snappy", "zstd"]),
        "write_page_checksum": st.booleans(),
        "store_schema": st.booleans(),
    }
)
BATCHES = st.integers(1, 9)


@st.composite
def months(draw: st.DrawFn) -> tuple[pa.Table, bytes]:
    """A month's table of any types, and the same as CSV."""
    rows = draw(st.integers(0, 6))
    names = [*NAMES, *draw(st.sampled_from([[], ["airport_fee"], ["Zone Group", "a,b"]]))]
    columns, text = [], []
    for _ in names:
        kind = draw(st.sampled_from(list(KINDS)))
        cells = draw(st.lists(st.just((None, "")) | KINDS[kind], min_size=rows, max_size=rows))
        columns.append(pa.array([value for value, _ in cells], kind))
        text.append([written for _, written in cells])
    lines = [names, *zip(*text, strict=True)]
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) + "\n" for line in lines]
    return pa.table(columns, names), "".join(quoted).encode()


@examples(75)
@given(both=months(), layout=LAYOUT, batch_rows=BATCHES)
def test_a_month_has_the_same_values_as_parquet_and_as_csv(
    place: Path, both: tuple[pa.Table, bytes], layout: dict[str, Any], batch_rows: int
) -> None:
    table, text = both
    place.write_bytes(text)
    of_csv = read_whole(CsvReader(place))
    place.write_bytes(parquet(table, **layout))
    of_parquet = read(place, batch_rows)
    assert of_parquet.rejects == of_csv.rejects == []
    assert of_parquet.unknown == of_csv.unknown
    assert [number for number, _ in of_parquet.rows] == list(range(1, table.num_rows + 1))
    for values in of_parquet.values + of_csv.values:
        values |= {name: value or None for name, value in json.loads(values.pop("_extra") or "{}").items()}
    empty_is_null = [{name: value or None for name, value in values.items()} for values in of_csv.values]
    assert [{name: value or None for name, value in v.items()} for v in of_parquet.values] == empty_is_null


@examples(60)
@given(numbers=st.lists(st.floats(), min_size=1, max_size=30), kind=st.sampled_from([pa.float64(), pa.float32()]))
def test_the_text_of_a_float_is_its_value_to_the_last_bit(place: Path, numbers: list[float], kind: pa.DataType) -> None:
    with np.errstate(over="ignore"):
        column = pa.array(np.array(numbers).astype(kind.to_pandas_dtype()))
    place.write_bytes(parquet(month(len(numbers), fare_amount=column)))
    told = [kind.to_pandas_dtype()(values["fare_amount"]) for values in read(place).values]
    np.testing.assert_array_equal(np.array(told), column.to_numpy())


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([1, 0, None]), ["1", "0", None]),
        (pa.array([1.0, 0.0, None]), ["1", "0", None]),
        (pa.array([1.0, -0.5, 123456789.0]), ["1", "-0.5", "123456789"]),
        (pa.array([math.nan, math.inf, -math.inf]), ["nan", "inf", "-inf"]),
        (pa.array([0.1 + 0.2, 1e300, 1e-7]), ["0.30000000000000004", "1e+300", "1e-7"]),
        (pa.array([2.1, 16777216, None], pa.float32()), ["2.1", "16777216", None]),
        (pa.array([Decimal("1.00"), Decimal("-2.50"), None]), ["1.00", "-2.50", None]),
        (pa.array([Decimal(10**40), Decimal(-1), None], pa.decimal256(50, 0)), [f"1{'0' * 40}", "-1", None]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array(["", None, " 0"]), ["", None, " 0"]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        (pa.array([b"a", None, "é".encode()]), ["a", None, "é"]),
        (pa.nulls(3), [None] * 3),
        (pa.nulls(3, pa.int64()), [None] * 3),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_a_value_is_landed_as_a_csv_file_has_it(
    write: Callable[..., Path], column: pa.Array, text: list[str | None]
) -> None:
    result = read(write(parquet(month(**{COUNT: column}))))
    assert result.values == [LANDED | {COUNT: value} for value in text]
    assert result.rejects == []


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_time_is_landed_to_the_second_in_any_unit(write: Callable[..., Path], unit: str) -> None:
    times = [datetime(2021, 1, 1, 0, 30, 10), None, datetime(1900, 2, 28, 23, 59, 59)]
    result = read(write(parquet(month(**{PICKUP: pa.array(times, pa.timestamp(unit))}))))
    texts = ["2021-01-01 00:30:10", None, "1900-02-28 23:59:59"]
    assert result.values == [LANDED | {PICKUP: text} for text in texts]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_fraction_of_a_second_is_not_lost(write: Callable[..., Path], unit: str) -> None:
    time = datetime(2021, 1, 1, 0, 30, 10, 250_000)
    [values] = read(write(parquet(month(1, **{PICKUP: pa.array([time], pa.timestamp(unit))})))).values
    assert datetime.fromisoformat(str(values[PICKUP])) == time


def test_a_fraction_of_a_second_changes_no_other_row(write: Callable[..., Path]) -> None:
    times = [datetime(2021, 1, 1, 0, 30, 10, 250_000), datetime(2021, 1, 1, 0, 30, 10)]
    path = write(parquet(month(2, **{PICKUP: pa.array(times)})))
    assert read(path).values[1] == LANDED
    assert read(path, 1) == read(path)


def test_a_date_is_landed_as_a_date(write: Callable[..., Path]) -> None:
    [values] = read(write(parquet(month(1, **{PICKUP: pa.array([date(2021, 1, 31)])})))).values
    assert values == LANDED | {PICKUP: "2021-01-31"}


def test_a_time_that_no_calendar_has_is_landed_as_what_no_cast_takes(write: Callable[..., Path]) -> None:
    times = pa.array([1 << 62, 0, -(1 << 62)], pa.timestamp("us"))
    texts = [str(values[PICKUP]) for values in read(write(parquet(month(**{PICKUP: times})))).values]
    assert texts[1].startswith("1970-01-01 00:00:00")
    for text in (texts[0], texts[2]):
        with pytest.raises(ValueError, match="Invalid isoformat"):
            datetime.fromisoformat(text)


def test_a_time_of_96_bits_is_not_another_time(write: Callable[..., Path]) -> None:
    times = pa.array([datetime(3000, 1, 1), datetime(2021, 1, 1, 0, 30, 10)], pa.timestamp("us"))
    content = parquet(month(2, **{PICKUP: times}), use_deprecated_int96_timestamps=True)
    assert [values[PICKUP] for values in read(write(content)).values] == ["3000-01-01 00:00:00", LANDED[PICKUP]]


# --- columns


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_the_columns_of_every_era_are_landed(write: Callable[..., Path], header: str) -> None:
    names = header.split(",")
    table = pa.table({name: pa.array([f"{name}!"]) for name in names})
    result = read(write(parquet(table)))
    [values] = result.values
    assert result.header == header
    assert result.unknown == []
    assert sorted(filter(None, values.values())) == sorted(f"{name}!" for name in names)
    assert values["tpep_pickup_datetime"] == f"{names[1]}!"


def test_columns_are_bound_by_name_in_any_order_and_absent_ones_are_null(write: Callable[..., Path]) -> None:
    table = month().select(sorted(NAMES)).drop_columns(["congestion_surcharge"])
    assert read(write(parquet(table))).values == [LANDED | {"congestion_surcharge": None}] * 3


@pytest.mark.parametrize("name", ["airport_fee", "Airport_fee", "cbd_congestion_fee"])
@pytest.mark.parametrize("fee", [1.25, None])
def test_a_fee_of_later_years_is_landed(write: Callable[..., Path], name: str, fee: float | None) -> None:
    result = read(write(parquet(month(1, **{name: pa.array([fee], pa.float64())}))))
    assert result.values == [LANDED | {name.lower(): fee and str(fee)}]
    assert result.unknown == []


def test_unknown_columns_are_kept_as_json_and_told(write: Callable[..., Path]) -> None:
    table = month(
        2,
        **{
            "__index_level_0__": pa.array([7, 8]),
            "Tip Jar": pa.array(['say "hi"', None]),
            "é": pa.array([1.0, 2.5]),
            "Seen": pa.array([datetime(2021, 1, 1)] * 2, pa.timestamp("us", "UTC")),
        },
    )
    result = read(write(parquet(table)))
    assert result.unknown == ["__index_level_0__", "tip jar", "é", "seen"]
    assert extras(result) == [
        {"__index_level_0__": "7", "tip jar": 'say "hi"', "é": "1", "seen": "2021-01-01 00:00:00Z"},
        {"__index_level_0__": "8", "tip jar": None, "é": "2.5", "seen": "2021-01-01 00:00:00Z"},
    ]
    assert [values | {"_extra": None} for values in result.values] == [LANDED] * 2


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1, 2], None, []]),
        pa.array([{"a": 1, "b": "é\0"}, None, {"a": None, "b": ""}]),
        pa.array([[{"a": [1]}], None, [None]]),
        pa.array([[1.5, 2.5], None, [0.0, -1.0]], pa.list_(pa.float64(), 2)),
    ],
    ids=lambda column: str(column.type),
)
def test_an_unknown_nested_column_is_kept_as_json(write: Callable[..., Path], column: pa.Array) -> None:
    result = read(write(parquet(month(Stops=column, zone=pa.array(["a", "b", "c"])))))
    assert result.unknown == ["stops", "zone"]
    assert [values["zone"] for values in extras(result)] == ["a", "b", "c"]
    assert [value and json.loads(value) for value in (v["stops"] for v in extras(result))] == column.to_pylist()


def test_a_map_and_times_within_an_unknown_column_are_kept_as_json(write: Callable[..., Path]) -> None:
    column = pa.array([[("a", datetime(2021, 1, 1))]], pa.map_(pa.string(), pa.timestamp("us")))
    [extra] = extras(read(write(parquet(month(1, stops=column)))))
    assert json.loads(str(extra["stops"])) == [["a", "2021-01-01 00:00:00"]]


# --- rows


@pytest.mark.parametrize("groups", [0, 1])
def test_a_month_without_a_row_has_no_rows(write: Callable[..., Path], groups: int) -> None:
    sink, table = pa.BufferOutputStream(), month(0)
    with pq.ParquetWriter(sink, table.schema) as writer:
        for _ in range(groups):
            writer.write_table(table)
    assert read(write(sink.getvalue().to_pybytes())) == Read(HEADER.decode(), [])


@pytest.mark.parametrize("batch_rows", [1, 7, BATCH_ROWS])
@pytest.mark.parametrize("row_group_size", [1, 10, 100])
def test_many_row_groups_and_batches_are_one_count_of_rows(
    write: Callable[..., Path], row_group_size: int, batch_rows: int
) -> None:
    table = month(100, VendorID=pa.array(range(100)))
    result = read(write(parquet(table, row_group_size=row_group_size)), batch_rows)
    assert result == Read(HEADER.decode(), [], [(n, LANDED | {"vendorid": str(n - 1)}) for n in range(1, 101)])


def test_identical_rows_are_all_kept(write: Callable[..., Path]) -> None:
    assert read(write(parquet(month(5)))).rows == [(number, LANDED) for number in range(1, 6)]


# --- the table of faults: rows

LIMIT = 60
SOUND = [None, b"", b"N", "é".encode(), b"x" * 60, b" \n\r\t", b'"']
BROKEN = [b"\xff", b"N\xc3", b"\xed\xa0\x80", b"\0", b"N\0", b"x" * 61, "é".encode() * 31, b"\0\xff" + b"x" * 60]
TEXT_KINDS = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "fixed size": pa.binary(2),
    "dictionary": pa.dictionary(pa.int32(), pa.binary()),
}
UNSEEN_KINDS = {
    "dictionary of strings": pa.dictionary(pa.int32(), pa.string()),
    "string_view": pa.string_view(),
    "binary_view": pa.binary_view(),
    "JSON": pa.json_(),
}


def text_column(cells: list[bytes | None], kind: pa.DataType) -> pa.Array:
    """A column of text, sound or not; nothing is checked here."""
    if pa.types.is_dictionary(kind):
        encoded = pa.array(cells, pa.binary()).dictionary_encode()
        return pa.DictionaryArray.from_arrays(
            encoded.indices, text_column(encoded.dictionary.to_pylist(), kind.value_type)
        )
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, text_column(cells, kind.storage_type))
    if pa.types.is_string_view(kind):
        return pa.Array.from_buffers(kind, len(cells), pa.array(cells, pa.binary_view()).buffers())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        raw = pa.array(cells, pa.binary() if pa.types.is_string(kind) else pa.large_binary())
        return pa.Array.from_buffers(kind, len(cells), raw.buffers())
    return pa.array(cells, kind)


def fault(cell: bytes | None) -> str | None:
    """What is wrong with a cell, in one of the reasons' own words."""
    if cell is None:
        return None
    if len(cell) > LIMIT:
        return "longer"
    return "NUL" if 0 in cell else None if cell == cell.decode(errors="ignore").encode() else "UTF-8"


@st.composite
def text_columns(draw: st.DrawFn) -> dict[str, tuple[pa.DataType, list[bytes | None]]]:
    """Columns of text, known and unknown, of any type of text, with broken cells."""
    rows = draw(st.integers(1, 12))
    columns = {}
    for name in (FLAG, "payment_type", "zone", "Zone Group"):
        kind = TEXT_KINDS[draw(st.sampled_from(list(TEXT_KINDS)))]
        cells = [None, b"ab", "é".encode(), b"\xffb", b"a\0"] if kind == pa.binary(2) else SOUND * 2 + BROKEN
        columns[name] = kind, draw(st.lists(st.sampled_from([None, *cells]), min_size=rows, max_size=rows))
    return columns


@examples(75)
@given(columns=text_columns(), layout=LAYOUT, batch_rows=BATCHES)
def test_a_row_is_rejected_for_its_broken_cell_and_every_other_row_landed(
    place: Path, columns: dict[str, tuple[pa.DataType, list[bytes | None]]], layout: dict[str, Any], batch_rows: int
) -> None:
    rows = list(zip(*(cells for _, cells in columns.values()), strict=True))
    broken = {
        number: {f"{name} {fault(cell)}" for name, cell in zip(columns, row, strict=True) if fault(cell)}
        for number, row in enumerate(rows, 1)
    }
    arrays = {name: text_column(cells, kind) for name, (kind, cells) in columns.items()}
    place.write_bytes(parquet(month(len(rows), **arrays), **layout))
    with mock.patch.object(read_parquet, "MAX_CELL_BYTES", LIMIT):
        result = read(place, batch_rows)
    assert len(result.rows) + len(result.rejects) == pq.read_metadata(place).num_rows == len(rows)
    assert [number for number, _, _ in result.rejects] == [number for number in broken if broken[number]]
    for number, reason, text in result.rejects:
        [told] = [name for name in columns if reason.startswith(f"{name} ")]
        assert any(what.startswith(told) and what.split()[-1] in reason for what in broken[number])
        assert "\0" not in text and str(json.loads(text)["VendorID"]) == "1"
    for (number, values), extra in zip(result.rows, extras(result), strict=True):
        cells = [None if cell is None else cell.decode() for cell in rows[number - 1]]
        assert [values[FLAG], values["payment_type"], extra["zone"], extra["zone group"]] == cells
        assert values | {FLAG: "N", "payment_type": "2", "_extra": None} == LANDED
    numbers = [number for number, _ in result.rows]
    assert numbers == [number for number in broken if not broken[number]]


FAULTS = {
    "not UTF-8 at byte 2": b"N\xff",
    "holds a NUL byte": b"N\0",
    "longer than 32,766 bytes": b"x" * 32_767,
    "longer than 32,766 bytes, of two each": "é".encode() * 16_384,
}


@pytest.mark.parametrize("kind", [kind for kind in TEXT_KINDS if kind != "fixed size"])
@pytest.mark.parametrize("name", [FLAG, "Zone"])
@pytest.mark.parametrize(("reason", "cell"), FAULTS.items(), ids=FAULTS)
def test_a_broken_cell_costs_its_own_row(
    write: Callable[..., Path], reason: str, cell: bytes, name: str, kind: str
) -> None:
    column = text_column([b"N", cell, None], TEXT_KINDS[kind])
    result = read(write(parquet(month(**{name: column}))))
    assert [number for number, _ in result.rows] == [1, 3]
    [(number, told, text)] = result.rejects
    assert number == 2
    assert told.startswith(f"{name} ") and reason.partition(",")[0] in told
    assert len(text) <= MAX_CELL_BYTES
    if len(cell) == 2:
        written = json.loads(text)
        assert written[name] == cell.decode(errors="backslashreplace") or written[name] == "N\\x00"
        assert (str(written["VendorID"]), written[PICKUP]) == ("1", "2021-01-01 00:30:10")


def test_a_cell_of_the_limits_length_is_landed(write: Callable[..., Path]) -> None:
    cells = ["x" * 32_766, "é" * 16_383]
    result = read(write(parquet(month(2, **{FLAG: pa.array(cells)}))))
    assert [values[FLAG] for values in result.values] == cells


@pytest.mark.parametrize("kind", UNSEEN_KINDS)
@pytest.mark.parametrize("name", [FLAG, "Zone"])
def test_a_broken_cell_costs_its_own_row_in_rarer_columns_of_text(
    write: Callable[..., Path], name: str, kind: str
) -> None:
    cells = [b"N", *FAULTS.values(), None]
    result = read(write(parquet(month(6, **{name: text_column(cells, UNSEEN_KINDS[kind])}))))
    assert [number for number, _ in result.rows] == [1, 6]
    assert [number for number, _, _ in result.rejects] == [2, 3, 4, 5]


def test_a_broken_text_within_an_unknown_column_does_not_cost_the_file(write: Callable[..., Path]) -> None:
    lists = pa.ListArray.from_arrays([0, 1, 2], text_column([b"N", b"\xff"], pa.string()))
    result = read(write(parquet(month(2, stops=lists))))
    assert [number for number, _ in result.rows] + [number for number, _, _ in result.rejects] == [1, 2]


FAR = pa.array([1 << 62], pa.timestamp("us"))


@pytest.mark.parametrize(
    "columns",
    [
        {PICKUP: FAR, FLAG: pa.array([b"\xff"])},
        {"seen": pa.array([1 << 30], pa.date32()), FLAG: pa.array([b"\xff"])},
        {"stops": pa.ListArray.from_arrays([0, 1], FAR)},
        {"stops": pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])},
        {"stops": pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), FLAG: pa.array([b"\xff"])},
    ],
    ids=["time in a rejected row", "date in a rejected row", "time in a list", "names twice", "names twice, rejected"],
)
def test_what_python_has_no_value_for_is_landed_or_rejected(
    write: Callable[..., Path], columns: dict[str, pa.Array]
) -> None:
    result = read(write(parquet(month(1, **columns))))
    assert result.lines == 1


def test_bytes_within_an_unknown_column_are_written_as_in_a_rejected_row(write: Callable[..., Path]) -> None:
    [extra] = extras(read(write(parquet(month(1, stops=pa.array([[b"N", b"\xff"]]))))))
    assert json.loads(str(extra["stops"])) == ["N", "\\xff"]


# --- the format is told by the bytes


@pytest.mark.parametrize("name", [f"{NAME}.parquet", f"{NAME}.csv", f"{NAME}.csv.gz", NAME])
def test_the_format_is_told_by_the_bytes_and_not_by_the_name(write: Callable[..., Path], name: str) -> None:
    text = HEADER + b"\n" + ROW + b"\n"
    contents = {parquet(month(1)): (1, LANDED), text: (2, landed()), gzip.compress(text): (2, landed())}
    for content, row in contents.items():
        assert read_whole(open_month(write(content, name))).rows == [row]


@pytest.mark.parametrize("content", [b"PAR1" + ROW, b"PAR1,", b"PAR1" + HEADER + b"\n" + ROW])
def test_text_that_starts_as_parquet_does_is_no_month(write: Callable[..., Path], content: bytes) -> None:
    assert "is a damaged Parquet file" in refused(write(content))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / f"{NAME}.parquet")
    assert "Is a directory" in refused(tmp_path)


# --- the table of faults: whole files that are refused

MARK = b"a text that stands in the file once"


@cache
def sealed(**options: Any) -> bytes:
    """A month with page checksums, and `MARK` in it in one place."""
    flags = pa.array(["N"] * 9 + [MARK.decode()])
    options = {"write_page_checksum": True, "write_statistics": False, "compression": "none"} | options
    content = parquet(month(10, **{FLAG: flags}), **options)
    assert content.count(MARK) == 1
    return content


def pages_of(content: bytes) -> int:
    """Where the pages of a file end and its footer starts."""
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


@pytest.mark.parametrize("kept", [4, 7, 8, 11, 12, 100, 1000, -9, -8, -5, -1])
def test_a_truncated_file_is_refused(write: Callable[..., Path], kept: int) -> None:
    sentence = refused(write(sealed()[:kept]))
    assert "is a damaged Parquet file" in sentence and "download it again" in sentence


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-4] + b"PAR2",
        lambda content: content[:-8] + bytes(4) + b"PAR1",
        lambda content: content[:-8] + b"\xff\xff\xff\x7fPAR1",
        lambda content: content[:-8] + b"\xff\xff\xff\xffPAR1",
        lambda content: content + b"\n",
        lambda content: b"PAR1" + content,
        lambda content: content[:4] + bytes(len(content) - 8) + content[-4:],
        lambda content: content[: pages_of(content)] + b"\xff" * 200 + content[-8:],
        lambda content: content[:4] + bytes(pages_of(content) - 4) + content[pages_of(content) :],
        lambda content: content.replace(b"VendorID", b"Vend\xff\xfeID"),
        lambda _: b"PAR1" + bytes(range(256)) * 9 + b"PAR1",
        lambda _: b"PAR1PAR1",
    ],
    ids=["magic", "no footer", "long footer", "negative footer", "newline behind", "shifted", "zeros", "footer",
         "pages", "names", "garbage", "nothing"],
)  # fmt: skip
def test_a_damaged_file_is_refused(write: Callable[..., Path], damage: Callable[[bytes], bytes]) -> None:
    sentence = refused(write(damage(sealed())))
    assert "is a damaged Parquet file (" in sentence and sentence.endswith("): download it again.")
    assert len(sentence) < 400


@pytest.mark.parametrize("dictionary", [True, False], ids=["dictionary page", "data page"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_page_is_held_against_its_checksum(write: Callable[..., Path], dictionary: bool, version: str) -> None:
    options = {"use_dictionary": dictionary, "data_page_version": version}
    other = MARK.replace(b"once", b"0nce")
    sentence = refused(write(sealed(**options).replace(MARK, other)))
    assert "CRC checksum verification failed" in sentence and "download it again" in sentence
    without = sealed(**options, write_page_checksum=False).replace(MARK, other)
    assert read(write(without)).values[-1][FLAG] == other.decode(), "it is the checksum that tells"


SEALED = st.builds(
    sealed,
    use_dictionary=st.booleans(),
    data_page_version=st.sampled_from(["1.0", "2.0"]),
)


@examples(100)
@given(content=SEALED, anywhere=st.integers(0, 1 << 16), flip=st.integers(0, 7))
def test_a_flipped_bit_in_the_pages_is_refused_or_changes_nothing(
    place: Path, content: bytes, anywhere: int, flip: int
) -> None:
    place.write_bytes(content)
    sound = read(place)
    at = 4 + anywhere % (pages_of(content) - 4)
    place.write_bytes(content[:at] + bytes([content[at] ^ 1 << flip]) + content[at + 1 :])
    with suppress(FileRefused):
        assert read(place) == sound


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_anywhere_raises_anything_but_a_refusal(place: Path, seed: int) -> None:
    # The places are fixed: no checksum is over the footer, and a few of its bits can claim a page of gigabytes.
    chosen = random.Random(seed)
    content = sealed(use_dictionary=seed % 2 == 0)
    refusals = 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(chosen.choice([1, 1, 3])):
            damaged[chosen.randrange(4, len(damaged))] ^= chosen.randrange(1, 256)
        place.write_bytes(damaged)
        try:
            assert read(place).lines == 10
        except FileRefused:
            refusals += 1
    assert refusals > 20


class Keys(encryption.KmsClient):
    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, _: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, _: str) -> bytes:
        return base64.b64decode(wrapped_key)


@pytest.mark.parametrize("plaintext_footer", [True, False], ids=["columns", "footer"])
def test_an_encrypted_file_is_refused(write: Callable[..., Path], plaintext_footer: bool) -> None:
    how = encryption.EncryptionConfiguration("key", column_keys={"key": [FLAG]}, plaintext_footer=plaintext_footer)
    keys = encryption.CryptoFactory(Keys).file_encryption_properties(encryption.KmsConnectionConfig(), how)
    sink, table = pa.BufferOutputStream(), month()
    with pq.ParquetWriter(sink, table.schema, encryption_properties=keys) as writer:
        writer.write_table(table)
    content = sink.getvalue().to_pybytes()
    assert content.startswith(b"PAR1" if plaintext_footer else b"PARE")
    assert "is an encrypted Parquet file: give it decrypted" in refused(write(content))


def renamed(**names: str) -> pa.Table:
    return month().rename_columns([names.get(name, name) for name in NAMES])


LIST = pa.array([[1], None, []])


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (month(**{FLAG: LIST}), f"The column {FLAG} of {NAME} is of type list<"),
        (month(**{FLAG: pa.array([{"a": 1}] * 3)}), "is of type struct<a: int64>, which is no single value"),
        (month(Airport_fee=LIST), "The column Airport_fee of"),
        (month(**{PICKUP: pa.array([0] * 3, pa.timestamp("us", "UTC"))}), f"The times in {PICKUP} of {NAME} are in"),
        (month(**{PICKUP: pa.array([0] * 3, pa.timestamp("s", "America/New_York"))}), "the zone America/New_York"),
        (month().drop_columns([COUNT, "total_amount"]), "lacks the required columns passenger_count, total_amount; it"),
        (renamed(VendorID="vendor"), "lacks the required columns vendorid; it has vendor, tpep_pickup_datetime,"),
        (renamed(PULocationID="vendorid"), "two columns are named 'vendorid': correct the file"),
        (renamed(PULocationID="VendorID"), "two columns are named 'vendorid': correct the file"),
        (renamed(PULocationID="vendor_name"), "two columns are named 'vendorid': correct the file"),
        (renamed(PULocationID="a", DOLocationID="A "), "two columns are named 'a': correct the file"),
        (renamed(PULocationID=" "), "the name of column 8 is blank: correct the file"),
        (pa.table({"LocationID": [1], "Zone": ["Newark"]}), "none of the columns of yellow-taxi trips, but LocationID"),
        (pa.table({"a" * 5000: [1]}), "none of the columns of yellow-taxi trips"),
        (pa.table({}), "none of the columns of yellow-taxi trips, but no column"),
    ],
    ids=["list", "struct", "list of later years", "UTC", "zone", "columns missing", "vendor missing", "other case",
         "twice", "alias", "unknown twice", "blank", "other table", "long name", "no column"],
)  # fmt: skip
def test_what_is_not_a_month_is_refused_with_what_to_do(
    write: Callable[..., Path], table: pa.Table, words: str
) -> None:
    sentence = refused(write(parquet(table)))
    assert words in sentence and len(sentence) < 500


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (renamed(VendorID="a\nb"), "lacks the required columns vendorid"),
        (pa.table({"a\nb": [1]}), "none of the columns"),
        (pa.table({"a": [1], "A": [2]}), "none of the columns"),
        (month(**{FLAG: pa.array([{f"field {n}": 1 for n in range(300)}] * 3)}), "which is no single value"),
    ],
    ids=["line break", "line break, none known", "twice, none known", "long type"],
)
def test_a_refusal_is_one_short_sentence_whatever_the_columns_are(
    write: Callable[..., Path], table: pa.Table, words: str
) -> None:
    sentence = refused(write(parquet(table)))
    assert words in sentence and len(sentence) < 500


def test_a_file_that_claims_too_many_rows_is_refused_unread(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(parquet(month(5), row_group_size=2))
    monkeypatch.setattr(read_parquet, "MAX_ROWS", 5)
    assert len(read(path).rows) == 5
    monkeypatch.setattr(read_parquet, "MAX_ROWS", 4)
    monkeypatch.setattr(ParquetReader, "__iter__", mock.Mock(side_effect=AssertionError("it was read")))
    assert "unpacks to 5 rows and" in refused(path)


def test_a_file_that_unpacks_to_too_much_is_refused_unread(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(parquet(month(10_000), row_group_size=5000))
    groups = [pq.read_metadata(path).row_group(group) for group in range(2)]
    size = sum(group.total_byte_size for group in groups)
    monkeypatch.setattr(read_parquet, "MAX_FILE_BYTES", size)
    assert len(read(path).rows) == 10_000
    monkeypatch.setattr(read_parquet, "MAX_FILE_BYTES", size - 1)
    monkeypatch.setattr(ParquetReader, "__iter__", mock.Mock(side_effect=AssertionError("it was read")))
    assert f"{size:,} bytes, which no month does: check where it came from" in refused(path)


@pytest.mark.parametrize("claimed", [299, 301])
def test_a_file_that_claims_another_number_of_rows_is_refused(write: Callable[..., Path], claimed: int) -> None:
    content = parquet(month(300))
    # In the footer the file's number of rows is the first field with this value: an i64, one field after the schema.
    said, says = (b"\x16" + bytes([2 * n % 128 + 128, 2 * n // 128]) for n in (300, claimed))
    at = content.index(said, pages_of(content))
    path = write(content[:at] + says + content[at + 3 :])
    assert pq.read_metadata(path).num_rows == claimed
    assert f"says that it has {claimed} rows, but 300 are in it: download it again" in refused(path)


# --- what it takes


def is_open(path: Path) -> bool:
    for descriptor in Path("/dev/fd").iterdir():
        with suppress(OSError):
            if os.path.samestat(os.fstat(int(descriptor.name)), path.stat()):
                return True
    return False


@pytest.mark.parametrize(
    "content",
    [
        sealed(),
        parquet(pa.table({"a": [1]})),
        parquet(month(**{FLAG: LIST})),
        sealed()[:-1],
        sealed().replace(MARK, MARK.upper()),
    ],
    ids=["sound", "no month", "nested", "truncated", "damaged page"],
)
def test_the_file_is_closed_after_use_and_after_a_refusal(write: Callable[..., Path], content: bytes) -> None:
    path = write(content)
    with suppress(FileRefused), ParquetReader(path) as reader:
        next(iter(reader))
        assert is_open(path)
    assert not is_open(path)


def test_a_row_group_of_a_million_rows_is_read_in_parts(write: Callable[..., Path]) -> None:
    rows, column = 1_000_000, pa.array(np.arange(1e6))
    amounts = dict.fromkeys(["fare_amount", "tip_amount", "tolls_amount", "total_amount"], column)
    table = pa.table(dict.fromkeys(NAMES, pa.nulls(rows)) | amounts)
    path = write(parquet(table, row_group_size=rows, use_dictionary=False, compression="none"))
    assert pq.read_metadata(path).num_row_groups == 1 and path.stat().st_size > 32_000_000
    # In a process of its own: what a pool of memory has had at most cannot be set back.
    first_parts = (
        "import itertools, pathlib, sys, pyarrow; from prefect_flows.read import open_month\n"
        "with open_month(pathlib.Path(sys.argv[1])) as reader:\n"
        "    parts = [chunk.rows for chunk in itertools.islice(reader, 3)]\n"
        "print(len(parts), max(parts), pyarrow.default_memory_pool().max_memory())"
    )
    done = subprocess.run([sys.executable, "-c", first_parts, path], capture_output=True, text=True, check=True)
    count, longest, peak = map(int, done.stdout.split())
    assert (count, longest) == (3, BATCH_ROWS)
    assert peak < 24_000_000
