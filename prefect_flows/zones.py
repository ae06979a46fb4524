"""The TLC's lookup of taxi zones, `taxi_zone_lookup.csv`: comes in a file, goes out as rows of text."""

import csv
from pathlib import Path

from prefect_flows.errors import FileRefused
from prefect_flows.tlc import ZONE_COLUMNS

MAX_BYTES = 1 << 20  # it has 12 KB


def read_zones(path: Path) -> list[tuple[str, ...]]:
    """The zones of a lookup, each as the text of `tlc.ZONE_COLUMNS`.

    Raises:
        FileRefused: the file is not the lookup, or a zone in it is not whole, has no number, or stands twice.
    """
    if path.stat().st_size > MAX_BYTES:
        raise FileRefused(f"{path.name} is too big to be the lookup of zones: give the TLC's taxi_zone_lookup.csv.")
    try:
        text = path.read_text("utf-8-sig")
        header, *rows = [row for row in csv.reader(text.splitlines(), strict=True) if row] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileRefused(f"{path.name} is not a CSV file ({error}): give the TLC's taxi_zone_lookup.csv.") from None
    names = [name.strip().lower() for name in header]
    if sorted(names) != sorted(ZONE_COLUMNS):
        raise FileRefused(
            f"{path.name} is not the lookup of zones: its header must be LocationID, Borough, Zone, service_zone."
        )
    zones: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows, start=2):
        zone = dict(zip(names, (cell.strip() for cell in row), strict=False))
        key = zone["locationid"]
        if len(row) != len(names) or not (key.isascii() and key.isdigit()) or key in zones:
            raise FileRefused(
                f"Row {number} of {path.name} is not a zone with a number of its own: get the file again."
            )
        zones[key] = tuple(zone[name] for name in ZONE_COLUMNS)
    if not zones:
        raise FileRefused(f"{path.name} holds no zones: get the file again.")
    return list(zones.values())
