"""The lookup of zones: what is read of it, and what is refused."""

from pathlib import Path

import pytest

from prefect_flows.errors import FileRefused
from prefect_flows.zones import read_zones

HEADER = '"LocationID","Borough","Zone","service_zone"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "taxi_zone_lookup.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("header", [HEADER, HEADER.lower(), HEADER.replace('"', ""), "\ufeff" + HEADER])
def test_zones_are_read_as_text(tmp_path: Path, header: str) -> None:
    path = written(tmp_path, header + '1,"EWR","Newark Airport","EWR"\r\n\n103,Manhattan,"Liberty, Ellis Island", \n')
    assert read_zones(path) == [
        ("1", "EWR", "Newark Airport", "EWR"),
        ("103", "Manhattan", "Liberty, Ellis Island", ""),
    ]


def test_columns_are_bound_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, "Zone,LocationID,service_zone,Borough\nNewark Airport,1,EWR,Queens\n")
    assert read_zones(path) == [("1", "Queens", "Newark Airport", "EWR")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not the lookup"),
        ("<html><body>Not found</body></html>\n", "is not the lookup"),
        (HEADER.replace("Zone", "Place", 1), "is not the lookup"),
        (HEADER, "holds no zones"),
        (HEADER + "1,EWR,Newark Airport\n", "Row 2 "),
        (HEADER + "1,EWR,Newark Airport,EWR,\n", "Row 2 "),
        (HEADER + "1,EWR,Newark Airport,EWR\n1,Queens,Jamaica Bay,Boro Zone\n", "Row 3 "),
        (HEADER + "one,EWR,Newark Airport,EWR\n", "Row 2 "),
        (HEADER + '1,"EWR,Newark Airport,EWR\n', "is not a CSV file"),
        (HEADER + "1," + "x" * (1 << 20), "is too big"),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FileRefused, match=words) as error:
        read_zones(written(tmp_path, text))
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "taxi_zone_lookup.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileRefused, match="is not a CSV file"):
        read_zones(path)
