"""The input table of the project's faults: whatever is in a file, each line of it is in one place, and told.

A case is a file. One that is accepted is a list of lines, each with its fate; all of them land, each as a month of its
own, before a single dbt build. One that is refused leaves its sentence in the ledger, and no trips.
"""

import gzip
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from prefect_flows import read_csv, read_parquet
from prefect_flows.errors import FileRefused, SourceError, TaxiError
from prefect_flows.fetch import fetch
from prefect_flows.land import land
from prefect_flows.sample import write_sample
from prefect_flows.settings import Settings
from prefect_flows.warehouses import Load, Warehouse, open_warehouse
from tests.conftest import CRATEDB_AT_LENGTH, own_warehouse
from tests.integration.conftest import build, records

MAX_REJECT_SHARE = 0.9

# A sound row; the month and the number of the line (in Parquet: of the row) are filled in.
ROW = {
    "VendorID": "1",
    "tpep_pickup_datetime": "{month}-01 00:30:10",
    "tpep_dropoff_datetime": "{month}-01 00:36:12",
    "passenger_count": "1",
    "trip_distance": "2.10",
    "RatecodeID": "1",
    "store_and_fwd_flag": "N",
    "PULocationID": "142",
    "DOLocationID": "43",
    "payment_type": "2",
    "fare_amount": "8",
    "extra": "3",
    "mta_tax": "0.5",
    "tip_amount": "0",
    "tolls_amount": "0",
    "improvement_surcharge": "0.3",
    "total_amount": "{number}",
    "congestion_surcharge": "2.5",
}
HEADER = ",".join(ROW)

Change = Callable[[bytes], bytes]


# --- a line and its fate, and a file of them


@dataclass(frozen=True)
class Line:
    """A sound row with other fields, or with its text changed; and what has to become of it.

    `reason` is the whole reason of a wrong value, and a part of a broken row's; `holds` is what trip_data must have.
    """

    fate: str
    fields: dict[str, str | bytes] = field(default_factory=dict)
    change: Change = bytes
    reason: str = ""
    holds: dict[str, Any] = field(default_factory=dict)

    def values(self, month: str, number: int) -> dict[str, bytes]:
        fields: dict[str, str | bytes] = ROW | self.fields
        return {
            name: value if isinstance(value, bytes) else value.format(month=month, number=number).encode()
            for name, value in fields.items()
        }

    def text(self, month: str, number: int) -> bytes:
        return self.change(b",".join(self.values(month, number).values()))


def kept(change: Change = bytes, holds: dict[str, Any] | None = None, **fields: str) -> Line:
    return Line("kept", fields, change, holds=holds or {})


def zero(**fields: str) -> Line:
    return Line("zero", fields)


def wrong(**fields: str) -> Line:
    reason = "; ".join(f"{name.lower()}: {value}" for name, value in fields.items())
    return Line("wrong value", fields, reason=reason)


def broken(reason: str, change: Change = bytes, **fields: str | bytes) -> Line:
    return Line("broken row", fields, change, reason)


def blank(text: bytes = b"") -> Line:
    return Line("blank", change=lambda _: text)


@dataclass(frozen=True)
class Case:
    """A file that is accepted: CSV, or Parquet where `types` is given (a column that it leaves out is text).

    `extra` is what `_extra` holds of each row.
    """

    lines: list[Line]
    header: str = HEADER
    end: bytes = b"\n"
    whole: Change = bytes
    pack: Change = bytes
    suffix: str = ".csv"
    types: dict[str, pa.DataType] | None = None
    extra: dict[str, Any] | None = None

    @property
    def numbered(self) -> dict[int, Line]:
        return dict(enumerate(self.lines, 2 if self.types is None else 1))

    def csv(self, month: str) -> bytes:
        lines = [line.text(month, number) for number, line in self.numbered.items()]
        return self.whole(b"".join(line + self.end for line in [self.header.encode(), *lines]))

    def content(self, month: str) -> bytes:
        if self.types is None:
            return self.pack(self.csv(month))
        rows = [line.values(month, number) for number, line in self.numbered.items()]
        columns = [column([row[name] for row in rows], self.types.get(name)) for name in rows[0]]
        return parquet(pa.table(columns, self.header.split(",")))

    def count(self, month: str) -> int:
        """The lines behind the header or the rows, counted without the project's readers."""
        if self.types is not None:
            return int(pq.read_metadata(io.BytesIO(self.content(month))).num_rows)
        text = self.csv(month)
        return text.count(b"\n") - 1 + (not text.endswith(b"\n"))


def column(values: list[bytes], kind: pa.DataType | None) -> pa.Array:
    try:
        texts = [value.decode() for value in values]
    except UnicodeDecodeError:
        return pa.array(values)
    return pa.array(texts) if kind is None else pa.array([text or None for text in texts]).cast(kind)


def parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


# --- files that are accepted


def swap(old: bytes, new: bytes) -> Change:
    return lambda text: text.replace(old, new)


def add(text: bytes) -> Change:
    return lambda row: row + text


def without_last(text: bytes) -> bytes:
    return text.rpartition(b",")[0]


def cut(text: bytes) -> bytes:
    return text[:40]


def without_line_end(text: bytes) -> bytes:
    return text.removesuffix(b"\n")


def in_members(text: bytes) -> bytes:
    """gzip of several members, the second of which starts within a row."""
    return gzip.compress(text[:-60]) + gzip.compress(b"") + gzip.compress(text[-60:])


def times(pickup: str, means: datetime | None = None) -> Line:
    """A row with another pick-up time; one that means nothing is a wrong value."""
    fields: dict[str, str | bytes] = {"tpep_pickup_datetime": pickup, "tpep_dropoff_datetime": "2021-01-31 23:59:59"}
    if means is None:
        return Line("wrong value", fields, reason=f"tpep_pickup_datetime: {pickup}")
    return Line("kept", fields, holds={"tpep_pickup_datetime": means})


STRAY = "a quote that is stray or never closed"
TOO_LONG = "longer than 32,766 bytes"
NOTE = f"{HEADER},note"
PAGE = "n" * 30_000  # in a note: 70 rows are more than a block of the reader
TWO = [kept(), kept()]
MANY = [kept()] * 250  # a month's odd times are few among its rows, or the month is refused

# These mean the same in a CSV and in a Parquet file of text.
OF_BOTH = {
    "passenger counts": [
        zero(passenger_count="0"),
        zero(passenger_count="0.0"),
        zero(passenger_count=" 0"),
        kept(passenger_count="", holds={"passenger_count": None}),
        wrong(passenger_count="abc"),
        kept(passenger_count="1e0", holds={"passenger_count": 1}),
        kept(passenger_count="2.0", holds={"passenger_count": 2}),
        wrong(passenger_count="1.5"),
    ],
    "amounts": [
        wrong(fare_amount="NaN"),
        wrong(total_amount="Infinity"),
        wrong(trip_distance="-inf", tip_amount="1e400"),
        wrong(fare_amount="$8"),
        kept(fare_amount="-3.5", trip_distance=".20", holds={"fare_amount": -3.5, "trip_distance": 0.2}),
        kept(fare_amount=" 8 ", extra="1e1", mta_tax="", holds={"fare_amount": 8, "extra": 10, "mta_tax": None}),
    ],
    "times": [
        times("1/1/2021 0:30", datetime(2021, 1, 1, 0, 30)),
        times("01/01/2021 12:30:10 AM", datetime(2021, 1, 1, 0, 30, 10)),
        times("1/13/2021 1:05:09 pm", datetime(2021, 1, 13, 13, 5, 9)),
        times("2021-01-01T00:30:10", datetime(2021, 1, 1, 0, 30, 10)),
        times("13/1/2021 0:30"),
        times("2021-02-30 00:00:00"),
        times("2021-01-01 24:00:00"),
        times("2021-01-01 00:30:10+01"),
        times("yesterday"),
        *MANY,
    ],
    "times outside the month": [
        times("2008-12-31 23:59:59", datetime(2008, 12, 31, 23, 59, 59)),
        times("2098-09-11 02:23:31", datetime(2098, 9, 11, 2, 23, 31)),
        *MANY,
    ],
    "identical rows": [kept(holds={"total_amount": 11.8}, total_amount="11.8")] * 3,
    "codes of other years": [
        kept(VendorID="VTS", payment_type="Credit", holds={"vendorid": 2, "payment_type": 1}),
        kept(VendorID=" cmt ", payment_type="NO CHARGE", holds={"vendorid": 1, "payment_type": 3}),
        kept(store_and_fwd_flag="1", RatecodeID="99.0", holds={"store_and_fwd_flag": "Y", "ratecodeid": 99}),
        kept(store_and_fwd_flag="", payment_type="", holds={"store_and_fwd_flag": None, "payment_type": None}),
        wrong(VendorID="ABC"),
    ],
    "bytes that no database keeps": [
        kept(),
        broken("not UTF-8 at byte", store_and_fwd_flag=b"\xff"),
        broken("holds a NUL byte", store_and_fwd_flag="\0"),
        broken(TOO_LONG, store_and_fwd_flag="x" * 32_767),
        kept(),
    ],
}

CASES = {
    "sound rows": Case([*TWO, zero(passenger_count="0")]),
    "rows too short, too long": Case(
        [
            kept(),
            broken("expected 18 fields, found 17", without_last),
            broken("expected 18 fields, found 1", lambda _: b"not a row"),
            broken("expected 18 fields, found 19", add(b",x")),
            kept(),
        ]
    ),
    "last line cut": Case([*TWO, broken("expected 18 fields, found 3", cut)], whole=without_line_end),
    "surplus empty fields on every row": Case(
        [kept(lambda row: without_last(row) + b",,", {"congestion_surcharge": None})] * 3,
        header=HEADER.rpartition(",")[0],
        end=b"\r\n",
    ),
    "blank lines": Case([blank(), kept(), blank(b" \t"), kept(), blank(b"\r")]),
    "no final line end": Case(TWO, whole=without_line_end),
    "byte order mark": Case(TWO, whole=lambda text: b"\xef\xbb\xbf" + text),
    "CR LF": Case([blank(), *TWO, broken("found 17", without_last)], end=b"\r\n"),
    "header ends in LF, rows in CR LF": Case([blank(b"\r"), kept(add(b"\r")), kept(add(b"\r"))]),
    "stray quotes": Case(
        [
            kept(),
            broken(STRAY, store_and_fwd_flag='N"'),
            kept(),
            broken(STRAY, store_and_fwd_flag='"N'),
            kept(),
            broken(STRAY, store_and_fwd_flag='"N"x'),
            kept(),
        ]
    ),
    "stray quotes in the first and the last block": Case(
        [
            *([kept(note=PAGE)] * 9),
            broken(STRAY, note=f'"{PAGE}'),
            *([kept(note=PAGE)] * 69),
            broken(STRAY, note=f'{PAGE}"'),
            kept(note=PAGE),
        ],
        header=NOTE,
        extra={"note": PAGE},
    ),
    "line break in quotes": Case(
        [
            kept(),
            broken(STRAY, lambda row: row.partition(b",N,")[0] + b',"N'),
            broken(STRAY, lambda row: b'Y",' + row.partition(b",N,")[2]),
            kept(),
        ]
    ),
    "quoted fields": Case(
        [kept(VendorID='"1"', fare_amount='"8"', note='"a, ""b"""'), kept(note='"a, ""b"""')],
        header=f'{HEADER},"note"',
        extra={"note": 'a, "b"'},
    ),
    "row larger than a block": Case(
        [kept(), broken("the line is longer than 2,097,152 bytes", lambda _: b"x" * (5 << 20)), kept()]
    ),
    "longest cell there may be": Case([kept(note="é" * 16_383)] * 2, header=NOTE, extra={"note": "é" * 16_383}),
    "header in other case with spaces": Case(TWO, header=HEADER.upper().replace(",", " , ")),
    "unknown columns with SQL for names": Case(
        [kept(note="1", more="'; drop table raw.loads; --")] * 2,
        header=HEADER + ',"a""b",x; DROP TABLE raw.loads; --',
        extra={'a"b': "1", "x; drop table raw.loads; --": "'; drop table raw.loads; --"},
    ),
    "unnamed index column": Case([kept(lambda row: b"7," + row)] * 2, header=f",{HEADER}", extra={"unnamed_0": "7"}),
    "gzip": Case(TWO, pack=gzip.compress, suffix=".csv.gz"),
    "gzip named .csv": Case(TWO, pack=gzip.compress),
    "plain named .csv.gz": Case(TWO, suffix=".csv.gz"),
    "gzip of several members": Case(TWO, pack=in_members, suffix=".csv.gz"),
    "Parquet named .csv": Case(TWO, types={}),
    "Parquet of other types": Case(
        [
            kept(passenger_count="2", holds={"passenger_count": 2, "trip_distance": 2.1, "mta_tax": 0.5}),
            kept(passenger_count="", holds={"passenger_count": None, "fare_amount": 8}),
            zero(passenger_count="0"),
            wrong(fare_amount="nan"),
            wrong(fare_amount="inf"),
            wrong(passenger_count="1.5"),
        ],
        types={
            "VendorID": pa.int32(),
            "tpep_pickup_datetime": pa.timestamp("ms"),
            "tpep_dropoff_datetime": pa.timestamp("s"),
            "passenger_count": pa.float64(),
            "trip_distance": pa.decimal128(9, 2),
            "RatecodeID": pa.int8(),
            "store_and_fwd_flag": pa.dictionary(pa.int32(), pa.string()),
            "PULocationID": pa.uint16(),
            "DOLocationID": pa.large_string(),
            "payment_type": pa.float32(),
            "fare_amount": pa.float64(),
            "mta_tax": pa.float32(),
            "total_amount": pa.int64(),
        },
        suffix=".parquet",
    ),
    "Parquet with an index and capitals": Case(
        [kept(**{"__index_level_0__": "7"})] * 2,
        header=f"{HEADER.upper()},__index_level_0__",
        types={"__index_level_0__": pa.int64()},
        extra={"__index_level_0__": "7"},
        suffix=".parquet",
    ),
} | {
    name + place: Case(lines, types=types, suffix=suffix)
    for name, lines in OF_BOTH.items()
    for place, types, suffix in (("", None, ".csv"), (" in Parquet", {}, ".parquet"))
}


# --- files that are refused


@dataclass(frozen=True)
class Refused:
    """A file that is refused, made by `make` or of `content`; `words` are in the sentence, `limits` patched meanwhile.

    `leaves` says how many rows of it stay in which table, to be looked at: none where it is not said.
    """

    words: str
    content: bytes = b""
    make: Callable[[Path], object] | None = None
    limits: dict[str, int] = field(default_factory=dict)
    error: type[TaxiError] = FileRefused
    leaves: dict[str, int] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        if self.make:
            self.make(path)
        else:
            path.write_bytes(self.content)


SOUND = Case([kept()] * 40)
CSV = SOUND.csv("2021-01")
PACKED = gzip.compress(CSV)
# More than a block, so that rows are on their way before the end turns out to be bad.
LONG = gzip.compress(Case([kept(note=PAGE)] * 80, header=NOTE).csv("2021-01"))
LACKING = Case(TWO, header=HEADER.replace("passenger_count", "passengers").replace("total_amount", "total"))


def parquet_with(types: dict[str, pa.DataType], header: str = HEADER) -> bytes:
    return Case(TWO, header=header, types=types).content("2021-01")


SOUND_PARQUET = parquet_with({})


def parquet_with_column(name: str, values: list[Any], kind: pa.DataType | None = None) -> bytes:
    table = pq.read_table(io.BytesIO(SOUND_PARQUET))
    return parquet(table.set_column(table.schema.names.index(name), name, pa.array(values, kind)))


def with_a_wrong_page() -> bytes:
    """A value changed in a page with a checksum, in a file that is otherwise whole."""
    content = Case([kept(), kept(trip_distance="7777.25"), kept()], types={}).content("2021-01")
    table = pq.read_table(io.BytesIO(content))
    content = parquet(table, compression="none", use_dictionary=False, write_statistics=False, write_page_checksum=True)
    assert content.count(b"7777.25") == 1
    return content.replace(b"7777.25", b"1111.25")


REFUSED = {
    "0 bytes": Refused("is empty: download it again", b""),
    "empty gzip": Refused("has no header line", gzip.compress(b"")),
    "header only": Refused("holds no trips", HEADER.encode() + b"\n"),
    "header and blank lines": Refused("holds no trips", HEADER.encode() + b"\n\n \r\n"),
    "directory": Refused("is not a regular file", make=Path.mkdir, error=SourceError),
    "FIFO": Refused("is not a regular file", make=os.mkfifo, error=SourceError),
    "no file": Refused("There is no file", make=lambda _: None, error=SourceError),
    "HTML page": Refused("is an HTML page", b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n"),
    "XML of a storage server": Refused("is an HTML page", b'<?xml version="1.0"?>\n<Error>AccessDenied</Error>\n'),
    "JSON": Refused("is JSON", b'{"message": "Not Found", "status": 404}\n'),
    "other CSV": Refused("none of the columns", b"LocationID,Borough,Zone\n1,EWR,Newark Airport\n"),
    "rows without a header": Refused("none of the columns", CSV.partition(b"\n")[2]),
    "UTF-16": Refused("is UTF-16 text: give it as ", CSV.decode().encode("utf-16")),
    "UTF-16 without a mark": Refused("UTF-16 or binary: give it as UTF-8 CSV", CSV.decode().encode("utf-16-le")),
    "semicolons": Refused("separated by semicolons: convert it to commas", CSV.replace(b",", b";")),
    "tabs": Refused("separated by tabs: convert it to commas", CSV.replace(b",", b"\t")),
    "name twice": Refused("two columns are named 'vendorid'", swap(b"extra", b"VendorID")(CSV)),
    "name and its alias": Refused("two columns are named 'vendorid'", swap(b"extra", b"vendor_name")(CSV)),
    "blank name": Refused("the name of column 12 is blank", swap(b",extra,", b",,")(CSV)),
    "required columns missing": Refused(
        f"lacks the required columns passenger_count, total_amount; it has {LACKING.header.replace(',', ', ')}: ",
        LACKING.csv("2021-01"),
    ),
    "every row broken": Refused("holds no trips", HEADER.encode() + b"\n1,2,3\n4,5,6\n", leaves={"rejected_rows": 2}),
    "too many rows broken": Refused(
        "19 of 20 rows of",
        Case([kept(), *[broken("", without_last)] * 19]).csv("2021-01"),
        leaves={"yellow_trips": 1, "rejected_rows": 19},
    ),
    "truncated gzip": Refused("ends too early: download it again", PACKED[:-12]),
    "truncated gzip of several blocks": Refused("ends too early: download it again", LONG[:-12]),
    "wrong CRC": Refused("CRC check failed", PACKED[:-8] + bytes(4) + PACKED[-4:]),
    "wrong CRC behind several blocks": Refused("CRC check failed", LONG[:-8] + bytes(4) + LONG[-4:]),
    "wrong length": Refused("Incorrect length of data", PACKED[:-4] + bytes(4)),
    "garbage behind gzip": Refused("damaged gzip file", PACKED + b"garbage"),
    "bomb": Refused("which no month does", LONG, limits={"MAX_FILE_BYTES": 2_200_000}),
    "Parquet truncated": Refused("damaged Parquet file", SOUND_PARQUET[:-20]),
    "Parquet without its start": Refused("has none of the columns", SOUND_PARQUET[4:]),
    "Parquet encrypted": Refused("encrypted Parquet file", b"PARE" + SOUND_PARQUET[4:-4] + b"PARE"),
    "Parquet with another magic in front": Refused("yellow-taxi trips", b"PAR2" + SOUND_PARQUET[4:]),
    "Parquet with another magic at the end": Refused("damaged Parquet file", SOUND_PARQUET[:-4] + b"PAR2"),
    "Parquet with a wrong page": Refused("damaged Parquet file", with_a_wrong_page()),
    "Parquet with a list for a number": Refused(
        "passenger_count", parquet_with_column("passenger_count", [[1], [1, 2]])
    ),
    "Parquet with a time zone": Refused(
        "are in the zone UTC",
        parquet_with_column("tpep_pickup_datetime", [datetime(2021, 1, 1)] * 2, pa.timestamp("us", "UTC")),
    ),
    "Parquet without a row": Refused("holds no trips", parquet(pq.read_table(io.BytesIO(SOUND_PARQUET)).slice(0, 0))),
    "Parquet with a name twice": Refused(
        "two columns are named 'vendorid'", parquet_with({}, HEADER.replace("extra", "vendor_id"))
    ),
    "Parquet without required columns": Refused(
        "lacks the required columns passenger_count, total_amount; it has ", parquet_with({}, LACKING.header)
    ),
    "Parquet of something else": Refused("none of the columns", parquet(pa.table({"LocationID": [1]}))),
    "Parquet bomb": Refused("which no month does", SOUND_PARQUET, limits={"MAX_ROWS": 1}),
}


# --- the same rows as CSV and as Parquet


WHOLE = dict.fromkeys(["VendorID", "passenger_count", "RatecodeID", "PULocationID", "DOLocationID", "payment_type"])
TIMES = ["tpep_pickup_datetime", "tpep_dropoff_datetime"]
FLAG = {"store_and_fwd_flag": pa.string()}


def sample_csv(folder: Path) -> bytes:
    """300 rows of a sample with an airport fee, which some do not have, and a column that is always empty."""
    sample = write_sample(folder / "sample.csv", "2021-02", rows=300, broken=0)
    assert sample.zero_passengers and sample.unknown_passengers
    header, *rows = sample.path.read_text().splitlines()
    fees = ["", "1.25", "0"]
    lines = [f"{header},airport_fee,cbd_congestion_fee", *(f"{row},{fees[n % 3]}," for n, row in enumerate(rows))]
    return "\n".join([*lines, ""]).encode()


def sample_parquet(csv: bytes, types: dict[str, pa.DataType], **options: Any) -> bytes:
    names = csv.partition(b"\n")[0].decode().split(",")
    kinds = dict.fromkeys(names, pa.float64()) | FLAG | {"cbd_congestion_fee": pa.null()} | types
    convert = pa_csv.ConvertOptions(column_types=kinds, strings_can_be_null=True)
    return parquet(pa_csv.read_csv(io.BytesIO(csv), convert_options=convert), **options)


TWINS: dict[str, Change] = {
    "int64, double and microseconds": lambda csv: sample_parquet(
        csv, dict.fromkeys(WHOLE, pa.int64()) | dict.fromkeys(TIMES, pa.timestamp("us"))
    ),
    "double, nanoseconds and Airport_fee": lambda csv: sample_parquet(
        csv.replace(b"airport_fee", b"Airport_fee"),
        dict.fromkeys(TIMES, pa.timestamp("ns")),
        row_group_size=100,
        compression="zstd",
        version="2.6",
    ),
}


# --- one warehouse for all of it

RANGE = (
    "the test stg_yellow_trips_passenger_count_in_range on column passenger_count of stg_yellow_trips"
    " failed with 2 failing rows."
)

SAMPLE = "the sample as CSV"
FILES = [*CASES, *REFUSED, SAMPLE, *TWINS]
MONTHS = {name: f"{2009 + number // 12}-{number % 12 + 1:02}" for number, name in enumerate(FILES)}


@dataclass
class Outcome:
    """What became of all files: the error of each that was refused, and the tables' rows of each by its month."""

    errors: dict[str, TaxiError] = field(repr=False)
    loads: dict[str, list[Load]] = field(repr=False)
    tables: dict[str, list[dict[str, Any]]] = field(repr=False)

    def rows(self, table: str, name: str) -> list[dict[str, Any]]:
        return [row for row in self.tables[table] if row["file_month"] == MONTHS[name]]


TABLES = {
    "trip_data": "select * from {schema}.trip_data",
    "trip_rejects": "select * from {schema}.trip_rejects",
    "yellow_trips": "select _file_month as file_month, _source_row, _extra from {raw}.yellow_trips",
    "rejected_rows": "select _file_month as file_month, line_no, reason, line_text from {raw}.rejected_rows",
}


@pytest.fixture(
    scope="module", params=[pytest.param("duckdb", marks=pytest.mark.xdist_group("inputs")), CRATEDB_AT_LENGTH]
)
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXI_MAX_REJECT_SHARE", str(MAX_REJECT_SHARE))
        with own_warehouse(request, request.param) as settings:
            yield settings


@pytest.fixture(scope="module")
def outcome(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("files")
    paths = {name: folder / f"{month}{suffix_of(name)}" for name, month in MONTHS.items()}
    write(paths)
    errors: dict[str, TaxiError] = {}
    with open_warehouse(settings) as warehouse:
        for name, path in paths.items():
            try:
                put(warehouse, path, MONTHS[name], REFUSED[name].limits if name in REFUSED else None)
            except TaxiError as error:
                errors[name] = error
        loads = {name: warehouse.loads(month) for name, month in MONTHS.items()}
    assert build(settings) == ""
    with open_warehouse(settings) as warehouse:
        return Outcome(errors, loads, {table: records(warehouse, query) for table, query in TABLES.items()})


def suffix_of(name: str) -> str:
    return CASES[name].suffix if name in CASES else ".csv"


def write(paths: dict[str, Path]) -> None:
    csv = sample_csv(next(iter(paths.values())).parent)
    for name, path in paths.items():
        if name in REFUSED:
            REFUSED[name].write(path)
        elif name in CASES:
            path.write_bytes(CASES[name].content(MONTHS[name]))
        else:
            path.write_bytes(TWINS.get(name, bytes)(csv.replace(b"2021-02-", f"{MONTHS[name]}-".encode())))


def put(warehouse: Warehouse, path: Path, month: str, limits: Mapping[str, int] | None = None) -> None:
    modules = {"MAX_FILE_BYTES": read_csv, "MAX_ROWS": read_parquet}
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in (limits or {}).items():
            patch.setattr(modules[name], name, limit)
        land(warehouse, fetch(str(path), path.parent), month, max_reject_share=MAX_REJECT_SHARE, keep_loads=1)


# --- the tests


@pytest.mark.parametrize("name", CASES)
def test_every_line_is_landed_rejected_or_blank(outcome: Outcome, name: str) -> None:
    case = CASES[name]
    landed, rejected = outcome.rows("yellow_trips", name), outcome.rows("rejected_rows", name)
    fates = [line.fate for line in case.lines]
    assert name not in outcome.errors
    assert len(landed) + len(rejected) + fates.count("blank") == case.count(MONTHS[name]) == len(case.lines)
    (load,) = outcome.loads[name]
    assert (load.status, load.rows_landed, load.rows_rejected) == ("staged", len(landed), len(rejected))
    assert load.rows_read == len(fates) - fates.count("blank")


@pytest.mark.parametrize("name", CASES)
def test_a_broken_row_is_told_with_its_number_reason_and_text(outcome: Outcome, name: str) -> None:
    case, month = CASES[name], MONTHS[name]
    expected = {number: line for number, line in case.numbered.items() if line.fate == "broken row"}
    rejects = {row["source_row"]: row for row in outcome.rows("trip_rejects", name) if row["kind"] == "broken row"}
    assert set(rejects) == set(expected)
    for number, line in expected.items():
        assert line.reason in rejects[number]["reason"]
        if case.types is None:
            assert rejects[number]["line_text"] == readable(line.text(month, number))
        else:
            assert rejects[number]["line_text"].startswith(f'{{"VendorID": "1", "tpep_pickup_datetime": "{month}-01 ')
    assert sorted(row["line_no"] for row in outcome.rows("rejected_rows", name)) == sorted(expected)


def readable(line: bytes) -> str:
    return line[:32_766].decode(errors="backslashreplace").replace("\0", "\\x00")


@pytest.mark.parametrize("name", CASES)
def test_a_value_that_does_not_cast_is_told_with_its_column(outcome: Outcome, name: str) -> None:
    rejects = [row for row in outcome.rows("trip_rejects", name) if row["kind"] == "wrong value"]
    assert {row["source_row"]: row["reason"] for row in rejects} == {
        number: line.reason for number, line in CASES[name].numbered.items() if line.fate == "wrong value"
    }


@pytest.mark.parametrize("name", CASES)
def test_trip_data_has_the_rows_with_passengers_and_no_others(outcome: Outcome, name: str) -> None:
    expected = {number: line for number, line in CASES[name].numbered.items() if line.fate == "kept"}
    trips = {row["source_row"]: row for row in outcome.rows("trip_data", name)}
    assert set(trips) == set(expected)
    assert len(outcome.rows("trip_data", name)) == len(expected)
    for number, line in expected.items():
        holds = {"total_amount": number} | line.holds
        assert {column: trips[number][column] for column in holds} == holds


@pytest.mark.parametrize("name", CASES)
def test_unknown_columns_are_kept_and_told(outcome: Outcome, name: str) -> None:
    extra = CASES[name].extra or {}
    assert all(json.loads(row["_extra"] or "{}") == extra for row in outcome.rows("yellow_trips", name))
    assert outcome.loads[name][0].unknown_columns == ",".join(extra)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_file_is_told_in_one_sentence(outcome: Outcome, name: str) -> None:
    error, refused = outcome.errors[name], REFUSED[name]
    sentence = str(error)
    assert type(error) is refused.error
    assert refused.words in sentence
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 600
    expected = [("failed", sentence)] if refused.error is FileRefused else []
    assert [(load.status, load.error) for load in outcome.loads[name]] == expected


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_file_leaves_no_rows(
    request: pytest.FixtureRequest, settings: Settings, outcome: Outcome, name: str
) -> None:
    left = {table: len(outcome.rows(table, name)) for table in TABLES}
    assert left == dict.fromkeys(TABLES, 0) | REFUSED[name].leaves


@pytest.mark.parametrize("name", TWINS)
def test_parquet_gives_the_trips_of_the_same_rows_as_csv(outcome: Outcome, name: str) -> None:
    csv, twin = (trips_of(outcome, file) for file in (SAMPLE, name))
    assert len(csv) > 250 and any(trip["airport_fee"] for trip in csv.values())
    assert {number + 1: trip for number, trip in twin.items()} == csv
    assert not outcome.rows("trip_rejects", name)


def trips_of(outcome: Outcome, name: str) -> dict[int, dict[str, Any]]:
    """The trips of a file by their rows, without what names the load, and their times without the month, which is that
    of the file."""
    of_load = ("file_month", "load_id", "source_row", "build_id")
    return {
        trip["source_row"]: {
            column: f"{value:%d %H:%M:%S.%f}" if column in TIMES else value
            for column, value in trip.items()
            if column not in of_load
        }
        for trip in outcome.rows("trip_data", name)
    }


def test_no_passenger_count_out_of_range_reaches_trip_data(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    lines = {"2021-01": TWO, "2021-02": [*TWO, kept(passenger_count="-1"), kept(passenger_count="10")]}
    with own_warehouse(request, "duckdb") as settings:
        for month, failed in (("2021-01", ""), ("2021-02", RANGE)):
            path = tmp_path / f"{month}.csv"
            path.write_bytes(Case(lines[month]).content(month))
            with open_warehouse(settings) as warehouse:
                put(warehouse, path, month)
            assert build(settings) == failed
        with open_warehouse(settings) as warehouse:
            trips = records(warehouse, "select file_month, passenger_count from {schema}.trip_data")
    assert trips == [{"file_month": "2021-01", "passenger_count": 1}] * 2
