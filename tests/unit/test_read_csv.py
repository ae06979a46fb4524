"""The CSV reader: every line after the header is landed, rejected or blank, whatever is wrong with the file.

What a line means is written down here a second time, in `means`, in another way than the reader has it; the properties
hold the reader against it, its fast path against its slow path, and one block size against another.
"""

import csv
import gzip
import io
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_flows import read as shared
from prefect_flows import read_csv
from prefect_flows.errors import FileRefused
from prefect_flows.read import MAX_CELL_BYTES, Chunk
from prefect_flows.read_csv import BLOCK_BYTES, MAX_LINE_BYTES, CsvReader
from tests.conftest import SHARED_DATA
from tests.unit.reading import HEADER, NAME, NAMES, ROW, Read, examples, landed, read_whole, refused

ROW_2 = b"2,2021-01-31 23:59:59,2021-02-01 00:10:00,,-.5,,,1,265,,-8,0,-0.5,0,0,-0.3,-9.3,"
OTHER_HEADERS = {
    "more fields than names": HEADER.rpartition(b",")[0],
    "index and unknown columns": b"," + HEADER.replace(b",", b", ").lower() + b',Zone Group,"a,b"',
}
SMALL = 64
# gzip's header has the time in it, and the workers of a parallel run must agree on the names of the tests
pack = partial(gzip.compress, mtime=0)
LIMITS = [
    {"MAX_CELL_BYTES": MAX_CELL_BYTES, "MAX_LINE_BYTES": MAX_LINE_BYTES},
    {"MAX_CELL_BYTES": 60, "MAX_LINE_BYTES": 600},
]
BOM = b"\xef\xbb\xbf"


def read(path: Path, block_bytes: int = BLOCK_BYTES) -> Read:
    return read_whole(CsvReader(path, block_bytes=block_bytes))


def chunks(path: Path, block_bytes: int) -> list[Chunk]:
    with CsvReader(path, block_bytes=block_bytes) as reader:
        return list(reader)


def month(*lines: bytes, header: bytes = HEADER, end: bytes = b"\n") -> bytes:
    return b"".join(line + end for line in (header, *lines))


def refusal(path: Path, block_bytes: int = BLOCK_BYTES) -> str:
    return refused(path, partial(CsvReader, block_bytes=block_bytes))


@contextmanager
def limited(limits: dict[str, int]) -> Iterator[None]:
    """Other limits of a line and of a cell, in both modules that know them."""
    cell = limits["MAX_CELL_BYTES"]
    with mock.patch.multiple(read_csv, **limits), mock.patch.object(shared, "MAX_CELL_BYTES", cell):
        yield


# --- what a line means, a second time


def split(text: str) -> list[str] | None:
    """The fields of a line by RFC 4180, character by character; None when its quotes are not right."""
    fields, cell, state = [], "", "start"
    for char in text + ",":
        if state == "start" and char == '"':
            state = "quoted"
        elif state == "quoted":
            state, cell = ("quote", cell) if char == '"' else (state, cell + char)
        elif state == "quote" and char == '"':
            state, cell = "quoted", cell + char
        elif char == ",":
            fields.append(cell)
            state, cell = "start", ""
        elif char == '"' or state == "quote":
            return None
        else:
            state, cell = "plain", cell + char
    return fields if state == "start" else None


def means(line: bytes, width: int) -> list[str] | str:
    """The values of a line, or "blank", or "rejected"."""
    line = line[:-1] if line[-1:] == b"\r" else line
    if len(line) > read_csv.MAX_LINE_BYTES:
        return "rejected"
    if all(byte in b" \t\r\v\f" for byte in line):
        return "blank"
    if {0, 13} & set(line):
        return "rejected"
    try:
        fields = split(str(line, "utf-8", "strict"))
    except UnicodeDecodeError:
        return "rejected"
    if fields is None or len(fields) < width or "".join(fields[width:]):
        return "rejected"
    if max(len(bytes(value, "utf-8")) for value in fields) > read_csv.MAX_CELL_BYTES:
        return "rejected"
    return fields[:width]


def by_definition(content: bytes) -> dict[int, list[str] | str]:
    """Each line after the header, by its number, with what it means."""
    header, *lines = content.split(b"\n")
    if lines and not lines[-1]:
        del lines[-1]
    width = len(next(csv.reader([header.decode()])))
    return {number: means(line, width) for number, line in enumerate(lines, 2)}


def fields_of(values: dict[str, str | None], header: bytes) -> list[str | None]:
    """A landed row as the fields that it came from."""
    extra = json.loads(values["_extra"]) if values["_extra"] else {}
    names = [name.strip().lower() or "unnamed_0" for name in next(csv.reader([header.decode()]))]
    return [extra[name] if name in extra else values[name] for name in names]


# --- damaged files

JUNK = [
    b'"', b'""', b'"a,b"', b',"a,""b""",', b"\r", b"\r\n", b"\n", b"\n\n", b"\r\r\n", b"\n \t\r\n", b"\n\v\f\n",
    b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x85", "\x85\u2028é".encode(),
    b",", b",,,", b" ", b"\t", b"x" * 61, b"x" * 700, b"NA", b"\\",
]  # fmt: skip
DAMAGE = st.tuples(
    st.sampled_from(["insert", "insert", "insert", "replace", "delete", "repeat a line", "cut"]),
    st.integers(0, 1 << 16),
    st.sampled_from(JUNK) | st.binary(max_size=4),
)
CELL = st.sampled_from(["", "0", "1", "-2.50", "2021-01-01 00:30:10", "N", " 1", "é", "x" * 30])
BLOCKS = st.sampled_from([SMALL, 257, 1024, 4096])


@st.composite
def damaged_month(draw: st.DrawFn) -> bytes:
    """A month's file, most of it sound, some of it broken; the header always whole."""
    header = draw(st.sampled_from([HEADER, *OTHER_HEADERS.values()]))
    width, surplus = len(next(csv.reader([header.decode()]))), draw(st.sampled_from([0, 0, 2]))
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    cells = draw(st.lists(CELL, min_size=width, max_size=2 * width))
    body = bytearray()
    for number in range(draw(st.integers(0, 14))):
        fields = [cells[(number + place) % len(cells)] for place in range(width)]
        body += ",".join(fields + [""] * surplus).encode() + end
    for kind, place, junk in draw(st.lists(DAMAGE, max_size=5)):
        at = place % (len(body) + 1)
        if kind == "insert":
            body[at:at] = junk
        elif kind == "replace":
            body[at : at + len(junk)] = junk
        elif kind == "delete":
            del body[at : at + place % 40]
        elif kind == "cut":
            del body[at:]
        else:
            start = body.rfind(b"\n", 0, at) + 1
            stop = body.find(b"\n", at) + 1 or len(body)
            body[start:start] = body[start:stop]
    return header + end + bytes(body)


@examples(300)
@given(content=damaged_month(), limits=st.sampled_from(LIMITS), block_bytes=BLOCKS)
def test_every_line_is_landed_rejected_or_blank_as_it_is_defined(
    place: Path, content: bytes, limits: dict[str, int], block_bytes: int
) -> None:
    place.write_bytes(content)
    header = content.split(b"\n")[0].rstrip(b"\r")
    with limited(limits):
        result, expected = read(place, block_bytes), by_definition(content)
    assert result.lines == content.count(b"\n") - 1 + (not content.endswith(b"\n"))
    assert {number: fields_of(values, header) for number, values in result.rows} == {
        number: meaning for number, meaning in expected.items() if isinstance(meaning, list)
    }
    assert [number for number, _, _ in result.rejects] == [
        n for n, meaning in expected.items() if meaning == "rejected"
    ]
    assert result.blank == sum(meaning == "blank" for meaning in expected.values())
    numbers = [number for number, _ in result.rows]
    assert numbers == sorted(set(numbers))


@examples(200)
@given(content=damaged_month(), block_bytes=BLOCKS)
def test_the_fast_path_gives_what_the_slow_path_gives(place: Path, content: bytes, block_bytes: int) -> None:
    place.write_bytes(content)
    fast = chunks(place, block_bytes)
    with mock.patch.object(read_csv, "_ordinary", lambda _: False):
        slow = chunks(place, block_bytes)
    assert [(chunk.rejects, chunk.blank) for chunk in fast] == [(chunk.rejects, chunk.blank) for chunk in slow]
    assert [chunk.batch for chunk in fast] == [chunk.batch for chunk in slow]


@examples(200)
@given(content=damaged_month(), limits=st.sampled_from(LIMITS), block_bytes=BLOCKS)
def test_the_size_of_a_block_changes_nothing(
    place: Path, content: bytes, limits: dict[str, int], block_bytes: int
) -> None:
    place.write_bytes(content)
    with limited(limits):
        assert read(place, block_bytes) == read(place)


@examples(150)
@given(content=damaged_month(), anywhere=st.integers(0, 1 << 16), junk=st.binary(max_size=3))
def test_a_damaged_gzip_file_is_refused_or_gives_the_same_rows(
    place: Path, content: bytes, anywhere: int, junk: bytes
) -> None:
    place.write_bytes(content)
    whole = read(place)
    packed = pack(content)
    at = 2 + anywhere % (len(packed) - 2)
    place.write_bytes(packed[:at] + junk + packed[at + len(junk) :] if junk else packed[:at])
    with suppress(FileRefused):
        assert read(place) == whole


ANY_BYTES = st.binary(max_size=60) | st.text(max_size=60).map(str.encode)


@examples(150)
@given(content=ANY_BYTES | ANY_BYTES.map(gzip.compress))
def test_no_bytes_are_taken_for_a_month_without_its_header(place: Path, content: bytes) -> None:
    place.write_bytes(content)
    with pytest.raises(FileRefused):
        read(place)


# --- the table of faults: lines


BOTH_BLOCKS = pytest.mark.parametrize("block_bytes", [SMALL, BLOCK_BYTES])


def with_flag(cell: bytes) -> bytes:
    return ROW.replace(b",N,", b"," + cell + b",")


@BOTH_BLOCKS
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,2021-01-01 00:30:10", "expected 18 fields, found 2"),
        (ROW.rpartition(b",")[0], "expected 18 fields, found 17"),
        (ROW + b",surplus", "expected 18 fields, found 19"),
        (ROW + b",,,surplus", "expected 18 fields, found 21"),
        (b"not a row at all", "expected 18 fields, found 1"),
        (with_flag(b'N"'), "quote that is stray or never closed"),
        (with_flag(b'"N'), "quote that is stray or never closed"),
        (with_flag(b'"N"x'), "quote that is stray or never closed"),
        (with_flag(b' "N"'), "quote that is stray or never closed"),
        (with_flag(b'"""'), "quote that is stray or never closed"),
        (b'"' + ROW, "quote that is stray or never closed"),
        (ROW + b'"', "quote that is stray or never closed"),
        (with_flag(b"\0"), "NUL byte"),
        (with_flag(b"N\rN"), "carriage return"),
        (ROW + b"\r\r", "carriage return"),
        (with_flag(b"\xff"), "not UTF-8 at byte 52"),
        (with_flag(b"\xed\xa0\x80"), "not UTF-8 at byte 52"),
        (ROW + b"\xc3", "not UTF-8 at byte 87"),
        (with_flag(b"x" * 32_767), "a field is longer than 32,766 bytes"),
        (with_flag(b'"' + b"x" * 32_767 + b'"'), "a field is longer than 32,766 bytes"),
        (with_flag("é".encode() * 16_384), "a field is longer than 32,766 bytes"),
    ],
)  # fmt: skip
def test_a_broken_line_is_rejected_and_its_neighbours_kept(
    write: Callable[..., Path], line: bytes, reason: str, block_bytes: int
) -> None:
    result = read(write(month(ROW, line, ROW_2)), block_bytes)
    assert result.rows == [(2, landed(ROW)), (4, landed(ROW_2))]
    [(number, told, text)] = result.rejects
    assert (number, result.blank) == (3, 0)
    assert reason in told
    readable = line.removesuffix(b"\r")[:MAX_CELL_BYTES].decode(errors="backslashreplace").replace("\0", "\\x00")
    assert text == readable


@BOTH_BLOCKS
@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (b"", ""),
        (b'""', ""),
        (b'"N"', "N"),
        (b'"a,b"', "a,b"),
        (b'"say ""N"""', 'say "N"'),
        (b'","', ","),
        (b'""""', '"'),
        (b" N ", " N "),
        (b"NA", "NA"),
        (b"null", "null"),
        ("é\u2028\x85".encode(), "é\u2028\x85"),
        (b"x" * 32_766, "x" * 32_766),
        (b'"' + b"x" * 32_766 + b'"', "x" * 32_766),
        ("é".encode() * 16_383, "é" * 16_383),
    ],
)
def test_a_value_is_landed_as_it_stands(write: Callable[..., Path], cell: bytes, value: str, block_bytes: int) -> None:
    result = read(write(month(ROW, with_flag(cell), ROW)), block_bytes)
    assert [values["store_and_fwd_flag"] for values in result.values] == ["N", value, "N"]
    assert (result.rejects, result.blank) == ([], 0)


@pytest.mark.parametrize(
    "line",
    [with_flag(b'"' + b"x" * 131_073 + b'"'), with_flag(b'"N"') + b"x" * 131_073],
    ids=["quoted", "beside a quoted one"],
)
def test_a_very_long_field_in_a_line_with_quotes_is_rejected(write: Callable[..., Path], line: bytes) -> None:
    result = read(write(month(ROW, line, ROW_2)))
    assert [number for number, _ in result.rows] == [2, 4]
    assert [number for number, _, _ in result.rejects] == [3]


@BOTH_BLOCKS
def test_a_last_line_that_is_cut_is_rejected(write: Callable[..., Path], block_bytes: int) -> None:
    result = read(write(month(ROW, ROW) + ROW[:40]), block_bytes)
    assert [number for number, _ in result.rows] == [2, 3]
    assert [(number, text) for number, _, text in result.rejects] == [(4, ROW[:40].decode())]


@pytest.mark.parametrize("number", [2, 500, 1001], ids=["first", "middle", "last"])
def test_a_stray_quote_costs_its_own_line_in_whichever_block(write: Callable[..., Path], number: int) -> None:
    lines = [ROW] * 1000
    lines[number - 2] = with_flag(b'"N')
    result = read(write(month(*lines)), 4096)
    assert [reject[0] for reject in result.rejects] == [number]
    assert [row for row, _ in result.rows] == [row for row in range(2, 1002) if row != number]


def test_a_quoted_line_break_rejects_both_halves_and_no_more(write: Callable[..., Path]) -> None:
    result = read(write(month(ROW, with_flag(b'"N\nY"'), ROW_2)))
    assert [number for number, _ in result.rows] == [2, 5]
    assert [number for number, _, _ in result.rejects] == [3, 4]


@BOTH_BLOCKS
@pytest.mark.parametrize("length", [601, 3000, 60_000])
def test_a_line_longer_than_the_limit_is_one_reject(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, length: int, block_bytes: int
) -> None:
    monkeypatch.setattr(read_csv, "MAX_LINE_BYTES", 600)
    result = read(write(month(ROW, b"x" * length, ROW_2)), block_bytes)
    assert result.rows == [(2, landed(ROW)), (4, landed(ROW_2))]
    [(number, reason, text)] = result.rejects
    assert (number, reason) == (3, "the line is longer than 600 bytes")
    assert text == "x" * min(length, len(text)) and len(text) >= 600


def test_a_line_of_the_limits_length_is_landed(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_csv, "MAX_LINE_BYTES", 600)
    value = b"x" * (600 - len(ROW) - 1)
    line = with_flag(b'"' + value + b'"')
    assert len(line) == 600
    for end in (b"\n", b"\r\n"):
        for block_bytes in (SMALL, BLOCK_BYTES):
            assert read(write(month(line, end=end)), block_bytes).values == [landed(with_flag(value))]


def test_a_line_larger_than_two_blocks_is_one_reject_with_the_start_of_its_text(write: Callable[..., Path]) -> None:
    result = read(write(month(ROW, b"x" * (5 << 20), ROW_2)))
    assert result.rows == [(2, landed(ROW)), (4, landed(ROW_2))]
    assert result.rejects == [(3, "the line is longer than 2,097,152 bytes", "x" * MAX_CELL_BYTES)]


def test_a_file_that_is_one_endless_line_takes_little_memory(write: Callable[..., Path]) -> None:
    path = write(pack(month(ROW) + b"x" * (48 << 20), 1))
    tracemalloc.start()
    result = read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(result.rows), len(result.rejects)) == (1, 1)
    assert peak < 20 << 20


@limited(LIMITS[1])
def test_no_line_over_the_limit_is_landed_in_part(write: Callable[..., Path]) -> None:
    line = ROW + b"," * (600 - len(ROW)) + b"\rand more" + b"x" * 600
    path = write(month(line, ROW_2))
    assert [number for number, _, _ in read(path).rejects] == [2]
    assert read(path, SMALL) == read(path)


@limited(LIMITS[1])
def test_no_line_over_the_limit_is_blank_for_its_start(write: Callable[..., Path]) -> None:
    path = write(month(b" " * 601 + b"x" * 600, ROW_2))
    assert [number for number, _, _ in read(path).rejects] == [2]
    assert read(path, SMALL) == read(path)


def test_nothing_is_printed_about_a_short_row_that_is_not_utf_8(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: printed.append(str(what.exc_value)))
    result = read(write(month(ROW, b"1,\xff", ROW_2)))
    assert [number for number, _, _ in result.rejects] == [3]
    assert printed == []


def test_a_byte_order_mark_at_the_start_of_a_row_is_part_of_its_value(write: Callable[..., Path]) -> None:
    result = read(write(month(BOM + ROW, BOM + ROW)))
    assert [values["vendorid"] for values in result.values] == ["\ufeff1", "\ufeff1"]


def test_the_first_row_does_not_make_the_fields_of_the_file(write: Callable[..., Path]) -> None:
    with mock.patch.object(read_csv.pa_csv, "ReadOptions", wraps=pa.csv.ReadOptions) as options:
        assert len(read(write(month(b"," * 30_000, *[ROW] * 3))).rows) == 4
    assert all(len(call.kwargs["column_names"]) < 100 for call in options.call_args_list)


# --- the table of faults: whole files that are accepted


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("final", [True, False], ids=["final newline", "none"])
@BOTH_BLOCKS
def test_line_ends_and_a_missing_final_one_change_nothing(
    write: Callable[..., Path], end: bytes, final: bool, block_bytes: int
) -> None:
    content = month(ROW, ROW_2, end=end)
    result = read(write(content if final else content.removesuffix(end)), block_bytes)
    assert result == Read(HEADER.decode(), [], [(2, landed(ROW)), (3, landed(ROW_2))])


@BOTH_BLOCKS
def test_line_ends_may_mix(write: Callable[..., Path], block_bytes: int) -> None:
    content = HEADER + b"\r\n" + ROW + b"\n" + ROW_2 + b"\r\n\r\n" + ROW + b"\r"
    result = read(write(content), block_bytes)
    assert result.rows == [(2, landed(ROW)), (3, landed(ROW_2)), (5, landed(ROW))]
    assert (result.rejects, result.blank) == ([], 1)


@BOTH_BLOCKS
@pytest.mark.parametrize("blank", [b"", b"\r", b" ", b"\t \r", b"\r\r"])
def test_blank_lines_are_counted_and_keep_the_line_numbers_right(
    write: Callable[..., Path], blank: bytes, block_bytes: int
) -> None:
    result = read(write(month(blank, ROW, blank, blank, ROW_2, b"broken", blank)), block_bytes)
    assert [number for number, _ in result.rows] == [3, 6]
    assert [number for number, _, _ in result.rejects] == [7]
    assert result.blank == 4


@BOTH_BLOCKS
@pytest.mark.parametrize("surplus", [b",", b",,", b"," * 9])
def test_surplus_empty_fields_are_accepted(write: Callable[..., Path], surplus: bytes, block_bytes: int) -> None:
    header = OTHER_HEADERS["more fields than names"]
    row = ROW.rpartition(b",")[0]
    result = read(write(month(row + surplus, row, row + surplus, row + b",,", header=header)), block_bytes)
    assert result.values == [landed(row, NAMES[:17])] * 4
    assert result.values[0]["congestion_surcharge"] is None


def test_surplus_fields_are_read_in_a_process_that_has_imported_the_reader_alone(write: Callable[..., Path]) -> None:
    path = write(month(ROW + b",,"))
    alone = (
        "import sys, pathlib; from prefect_flows.read_csv import CsvReader; list(CsvReader(pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", alone, path], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("surplus", [b",,x", b",x,", b",x", b",,,x"])
def test_surplus_text_after_surplus_empty_fields_rejects_only_its_row(
    write: Callable[..., Path], surplus: bytes
) -> None:
    sound = ROW + b",,"
    result = read(write(month(sound, ROW + surplus, sound)))
    assert [number for number, _ in result.rows] == [2, 4]
    assert [number for number, _, _ in result.rejects] == [3]


def test_a_byte_order_mark_before_the_header_is_no_part_of_it(write: Callable[..., Path]) -> None:
    result = read(write(BOM + month(ROW)))
    assert result == read(write(month(ROW)))
    assert result.header == HEADER.decode()


def test_identical_rows_are_all_kept(write: Callable[..., Path]) -> None:
    assert read(write(month(*[ROW] * 5))).rows == [(number, landed(ROW)) for number in range(2, 7)]


def test_the_header_is_bound_in_any_case_with_spaces_and_quotes(write: Callable[..., Path]) -> None:
    header = b'"vendorID", ' + b", ".join(name.upper().encode() for name in NAMES[1:])
    result = read(write(month(ROW, header=header)))
    assert result.values == [landed(ROW)]
    assert result.header == header.decode()


@BOTH_BLOCKS
def test_unknown_columns_are_kept_as_json_and_told(write: Callable[..., Path], block_bytes: int) -> None:
    header = b"," + HEADER + b",Tip Jar,\xc3\xa9"
    odd = b"8," + ROW_2 + b',"say ""hi"", you",\\'
    result = read(write(month(b"7," + ROW + b",,\xc3\xa9", odd, header=header)), block_bytes)
    assert result.unknown == ["unnamed_0", "tip jar", "é"]
    assert result.values[0]["_extra"] == '{"unnamed_0": "7", "tip jar": "", "é": "é"}'
    assert [json.loads(str(values.pop("_extra"))) for values in result.values] == [
        {"unnamed_0": "7", "tip jar": "", "é": "é"},
        {"unnamed_0": "8", "tip jar": 'say "hi", you', "é": "\\"},
    ]
    known = [{name: value for name, value in landed(row).items() if name != "_extra"} for row in (ROW, ROW_2)]
    assert result.values == known


def test_columns_that_the_file_lacks_are_null_and_not_empty(write: Callable[..., Path]) -> None:
    [values] = read(write(month(ROW_2))).values
    assert values["passenger_count"] == "" and values["congestion_surcharge"] == ""
    assert values["airport_fee"] is None and values["_extra"] is None


@pytest.mark.parametrize("ends", [b"", b"\n", b"\r\n", b"\n\n \n"])
def test_a_header_alone_has_no_rows(write: Callable[..., Path], ends: bytes) -> None:
    result = read(write(HEADER + ends))
    assert (result.rows, result.rejects) == ([], [])
    assert result.blank == max(ends.count(b"\n") - 1, 0)


@pytest.mark.parametrize("width", [18, 20])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_sound_blocks_never_go_line_by_line(write: Callable[..., Path], width: int, end: bytes) -> None:
    with mock.patch.object(CsvReader, "_parse_lines", side_effect=AssertionError("line by line")):
        result = read(write(month(*[ROW + b"," * (width - 18)] * 500, end=end)), 4096)
    assert result.rows == [(number, landed(ROW)) for number in range(2, 502)]


def test_a_batch_is_about_a_block(write: Callable[..., Path]) -> None:
    sizes = [chunk.batch.nbytes for chunk in chunks(write(month(*[ROW] * 2000)), 4096)]
    assert len(sizes) > 20 and max(sizes) < 4 * 4096


def test_the_file_is_closed_after_use_and_after_a_refusal(write: Callable[..., Path]) -> None:
    opened: list[Any] = []

    def remember(path: Path) -> io.BufferedReader:
        opened.append(path.open("rb"))
        return opened[-1]

    with mock.patch.object(read_csv, "_open", remember):
        read(write(month(ROW)))
        refusal(write(b"<html>"))
    assert [file.closed for file in opened] == [True, True]


# --- the table of faults: whole files that are refused

LACKING = HEADER.replace(b"passenger_count,", b"").replace(b",total_amount", b"")
WITHOUT_TRIPS = "none of the columns of yellow-taxi trips"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty: download it again"),
        (pack(b""), "has no header line"),
        (b"\n" + month(ROW), "has no header line"),
        (BOM, "has no header line"),
        (b"<!DOCTYPE html>\n<html><body>Sorry, come back later</body></html>\n", "is an HTML page"),
        (b"  <html>", "is an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is an HTML page"),
        (b'{"error": "not found"}', "is JSON"),
        (b'[\n {"vendorid": 1}\n]\n', "is JSON"),
        (b'{"message":"Not Found","status":404}', "is JSON, not a month of yellow-taxi trips"),
        (month(ROW).decode().encode("utf-16"), "UTF-16 text: give it as Parquet or UTF-8 CSV"),
        (b"\xfe\xff" + month(ROW).decode().encode("utf-16-be"), "UTF-16 text: give it as Parquet or UTF-8 CSV"),
        (month(ROW).decode().encode("utf-16-le"), "UTF-16 or binary: give it as UTF-8 CSV"),
        (month(ROW).replace(b",", b";"), "separated by semicolons: convert it to commas"),
        (month(ROW).replace(b",", b"\t"), "separated by tabs: convert it to commas"),
        (month(ROW, end=b"\r"), "lone carriage return: convert them to LF or CR LF"),
        (month(ROW, header=HEADER + b",vendorid"), "two columns are named 'vendorid': correct the file"),
        (month(ROW, header=HEADER + b",vendor_name"), "two columns are named 'vendorid': correct the file"),
        (month(ROW, header=HEADER + b",a,A "), "two columns are named 'a': correct the file"),
        (month(ROW, header=HEADER + b","), "the name of column 19 is blank: correct the file"),
        (month(ROW, header=LACKING), "lacks the required columns passenger_count, total_amount; it has VendorID,"),
        (month(header=ROW), "has none of the columns of yellow-taxi trips"),
        (b"LocationID,Borough,Zone\n1,EWR,Newark Airport\n", f"{WITHOUT_TRIPS}; its first line is 'LocationID,"),
        (b"a" * 5000, WITHOUT_TRIPS),
        (month(ROW, header=HEADER + b",\xff"), "is not UTF-8 CSV"),
        (month(ROW, header=HEADER + b',"a'), "is not UTF-8 CSV"),
        (b"PK\x03\x04" + ROW, "is a ZIP archive: give it as Parquet or UTF-8 CSV, plain or gzip"),
        (b"BZh9" + ROW, "compressed with bzip2: give it"),
        (b"\xfd7zXZ\0" + ROW, "compressed with xz: give it"),
        (b"\x28\xb5\x2f\xfd" + ROW, "compressed with Zstandard: give it"),
        (b"\x7fELF\x02\x01\x01\0\0", "UTF-16 or binary"),
    ],
)  # fmt: skip
def test_what_is_not_a_month_is_refused_with_what_to_do(write: Callable[..., Path], content: bytes, words: str) -> None:
    sentence = refusal(write(content))
    assert words in sentence and len(sentence) < 400


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / NAME)
    assert "Is a directory" in refusal(tmp_path)


# --- gzip


@BOTH_BLOCKS
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (pack(month(ROW, ROW_2)), f"{NAME}.csv.gz"),
        (pack(month(ROW, ROW_2)), f"{NAME}.csv"),
        (month(ROW, ROW_2), f"{NAME}.csv.gz"),
        (pack(month(ROW)) + pack(ROW_2 + b"\n"), f"{NAME}.csv"),
        (pack(month(ROW) + ROW_2[:9]) + pack(b"") + pack(ROW_2[9:]), f"{NAME}.csv"),
        (pack(month(ROW, ROW_2)) + bytes(512), f"{NAME}.csv"),
    ],
    ids=["gzip", "gzip named csv", "plain named gz", "two members", "members within a line", "zeros behind"],
)
def test_gzip_is_told_by_the_bytes_and_read_whole(
    write: Callable[..., Path], content: bytes, name: str, block_bytes: int
) -> None:
    result = read(write(content, name), block_bytes)
    assert result.rows == [(2, landed(ROW)), (3, landed(ROW_2))]


PACKED = pack(month(*[ROW] * 500))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PACKED[:-400], "ends too early: download it again"),
        (PACKED[:-4], "ends too early: download it again"),
        (PACKED[:5], "ends too early: download it again"),
        (b"\x1f\x8b", "ends too early: download it again"),
        (PACKED[:-8] + bytes(4) + PACKED[-4:], "damaged gzip file (CRC check failed"),
        (PACKED[:-4] + bytes(4), "damaged gzip file (Incorrect length of data produced)"),
        (PACKED + b"garbage", "damaged gzip file (Not a gzipped file"),
        (PACKED[:60] + b"\xff" * 40 + PACKED[100:], "damaged gzip file (Error -3 while decompressing"),
        (b"\x1f\x8b\x01" + PACKED[3:], "damaged gzip file (Unknown compression method)"),
        (PACKED + PACKED[:-9], "ends too early: download it again"),
    ],
)  # fmt: skip
def test_a_gzip_file_that_is_not_whole_is_refused(write: Callable[..., Path], content: bytes, words: str) -> None:
    sentence = refusal(write(content))
    assert words in sentence and "download it again" in sentence


@pytest.mark.parametrize("form", [pack, bytes], ids=["bomb", "plain"])
def test_a_file_that_unpacks_to_too_much_is_refused(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, form: Callable[[bytes], bytes]
) -> None:
    content = month(*[ROW] * 100)
    monkeypatch.setattr(read_csv, "MAX_FILE_BYTES", len(content))
    assert len(read(write(form(content)), 1024).rows) == 100
    monkeypatch.setattr(read_csv, "MAX_FILE_BYTES", len(content) - 1)
    assert "check where it came from" in refusal(write(form(content)), 1024)


# --- the published files, where they lie beside the checkout

HEADS = {
    "2009-01": "VTS",
    "2010-01": "VTS",
    "2015-01": "2",
    "2016-07": "1",
    "2017-01": "1",
    "2019-01": "1",
    "2020-01": "1",
}


@BOTH_BLOCKS
@pytest.mark.parametrize(("of", "vendor"), HEADS.items())
def test_the_heads_of_published_months_lose_only_their_cut_line(of: str, vendor: str, block_bytes: int) -> None:
    path = SHARED_DATA / "month_heads" / f"yellow_tripdata_{of}.csv"
    if not path.exists():
        pytest.skip("the heads of published months are not beside the checkout (../shared/data)")
    content = path.read_bytes()
    result = read(path, block_bytes)
    assert [number for number, _, _ in result.rejects] == [content.count(b"\n") + 1]
    assert result.lines == content.count(b"\n")
    assert result.blank == (of in ("2009-01", "2010-01", "2017-01"))
    assert result.unknown == []
    assert result.values[0]["vendorid"] == vendor
    assert all(
        re.fullmatch(r"20\d\d-\d\d-\d\d [\d:]{8}", str(values["tpep_pickup_datetime"])) for values in result.values
    )
    assert all(re.fullmatch(r"[\d.]+", str(values["total_amount"])) for values in result.values)


def test_the_head_of_the_published_month_is_landed_whole(head: Path) -> None:
    with CsvReader(head) as reader:
        read_chunks = list(reader)
    table = pa.Table.from_batches([chunk.batch for chunk in read_chunks])
    assert (table.num_rows, sum(len(chunk.rejects) + chunk.blank for chunk in read_chunks)) == (22_791, 0)
    assert table["_source_row"].to_pylist() == list(range(2, 22_793))
    with gzip.open(head, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in NAMES:
        assert table[name.lower()].to_pylist() == [row[name] for row in rows]
