"""What the tests of both readers share: a month's header and a row of it, a file read to its end, and its refusal."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from prefect_flows.errors import FileRefused
from prefect_flows.read import SCHEMA, Reader, open_month
from prefect_flows.tlc import COLUMN_NAMES

HEADER = (
    b"VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,passenger_count,trip_distance,RatecodeID,"
    b"store_and_fwd_flag,PULocationID,DOLocationID,payment_type,fare_amount,extra,mta_tax,tip_amount,"
    b"tolls_amount,improvement_surcharge,total_amount,congestion_surcharge"
)
NAMES = HEADER.decode().split(",")
ROW = b"1,2021-01-01 00:30:10,2021-01-01 00:36:12,1,2.10,1,N,142,43,2,8,3,0.5,0,0,0.3,11.8,2.5"
NAME = "yellow_tripdata_2021-01"


@dataclass
class Read:
    """A file read to its end: row values by row number in their order, rejects as (number, reason, text)."""

    header: str
    unknown: list[str]
    rows: list[tuple[int, dict[str, str | None]]] = field(default_factory=list)
    rejects: list[tuple[int, str, str]] = field(default_factory=list)
    blank: int = 0

    @property
    def values(self) -> list[dict[str, str | None]]:
        return [values for _, values in self.rows]

    @property
    def lines(self) -> int:
        return len(self.rows) + len(self.rejects) + self.blank


def read_whole(reader: Reader) -> Read:
    with reader:
        result = Read(reader.header, list(reader.binding.unknown))
        for chunk in reader:
            assert chunk.batch.schema == SCHEMA
            chunk.batch.validate(full=True)
            assert chunk.rows == chunk.batch.num_rows + len(chunk.rejects)
            for values in chunk.batch.to_pylist():
                result.rows.append((values.pop("_source_row"), values))
            result.rejects += [(reject.line, reject.reason, reject.text) for reject in chunk.rejects]
            result.blank += chunk.blank
    return result


def landed(row: bytes = ROW, names: list[str] = NAMES) -> dict[str, str | None]:
    """What a row without quotes is in the warehouse, by the names of its fields."""
    nothing: dict[str, str | None] = dict.fromkeys([*COLUMN_NAMES, "_extra"])
    return nothing | dict(zip([name.lower() for name in names], row.decode().split(","), strict=False))


def refused(path: Path, opened: Callable[[Path], Reader] = open_month) -> str:
    """The sentence that a file is refused with, on opening or while it is read."""
    with pytest.raises(FileRefused) as error:
        read_whole(opened(path))
    sentence = str(error.value)
    assert sentence.startswith(("The ", path.name, str(path)))
    assert sentence.endswith(".") and "\n" not in sentence
    assert ": " in sentence, "a cause, and what to do or what the file is not"
    return sentence


def examples(number: int) -> settings:
    return settings(max_examples=number, deadline=None, suppress_health_check=[HealthCheck.too_slow])
