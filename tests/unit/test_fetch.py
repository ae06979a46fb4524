"""Fetching, against a stub server: what arrives is whole and private, what cannot be had is said apart."""

import gzip
import hashlib
import logging
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import httpx
import pytest

from prefect_flows import fetch as fetching
from prefect_flows.errors import NotPublished, SourceError, TaxiError, Unavailable, UsageError
from prefect_flows.fetch import MAX_REDIRECTS, SourceFile, download_folder, fetch, is_url, locate, without_credentials
from tests.unit.stub_http import Answer, Request, Stub, a_file, serve

BODY = b"".join(f"line {number} of the file\n".encode() for number in range(200))
OTHER = b"other bytes\n" * 300
NAME = "yellow_tripdata_2021-01.csv"
TEMPLATE = "https://example.org/{month}/trips_{month}.parquet"
SECRET = "canary"
LOGIN = f"user:{SECRET}"


@pytest.fixture(autouse=True)
def small_chunks_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "CHUNK_BYTES", 512)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serve(a_file(BODY)) as server:
        yield server


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def refusal(kind: type[TaxiError], source: str, folder: Path) -> str:
    """The sentence of the error that fetching ends with."""
    with pytest.raises(kind) as error:
        fetch(source, folder)
    sentence = str(error.value)
    assert type(error.value) is kind
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def nobody() -> Iterator[None]:
    """Run as a user whom file permissions hold for, where the tests run as root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users may look into, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_download_is_the_servers_bytes_with_their_hash_and_size(stub: Stub, tmp_path: Path) -> None:
    file = fetch(stub.url(), tmp_path)
    assert file == SourceFile(tmp_path / NAME, stub.url(), hashlib.sha256(BODY).hexdigest(), len(BODY))
    assert file.path.read_bytes() == BODY


def test_a_download_leaves_nothing_but_the_file_which_only_its_owner_may_read(stub: Stub, tmp_path: Path) -> None:
    fetch(stub.url(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert mode(tmp_path / NAME) == 0o600


def test_progress_tells_the_bytes_so_far_and_their_share(stub: Stub, tmp_path: Path) -> None:
    told: list[tuple[int, float | None]] = []
    fetch(stub.url(), tmp_path, lambda *amounts: told.append(amounts))
    so_far = [min(512 * n, len(BODY)) for n in range(1, -(-len(BODY) // 512) + 1)]
    assert told == [(received, received / len(BODY)) for received in so_far]


@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_without_a_length_is_taken(stub: Stub, tmp_path: Path, chunked: bool) -> None:
    stub.respond = lambda _: Answer(body=BODY, announced=None, chunked=chunked)
    told: list[tuple[int, float | None]] = []
    file = fetch(stub.url(), tmp_path, lambda *amounts: told.append(amounts))
    assert (file.path.read_bytes(), file.bytes) == (BODY, len(BODY))
    assert told[-1] == (len(BODY), None)


@pytest.mark.parametrize("path", ["/", ""])
def test_a_url_without_a_file_name_is_downloaded_all_the_same(stub: Stub, tmp_path: Path, path: str) -> None:
    assert fetch(stub.url(path), tmp_path).path.read_bytes() == BODY


def test_a_file_of_the_same_name_is_replaced(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"of an earlier run")
    assert fetch(stub.url(), tmp_path).path.read_bytes() == BODY


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_gzip_file_is_kept_as_it_was_sent(stub: Stub, tmp_path: Path, encoding: str) -> None:
    packed = gzip.compress(BODY)
    stub.respond = lambda _: Answer(body=packed, headers={"Content-Encoding": encoding})
    file = fetch(stub.url(f"/{NAME}.gz"), tmp_path)
    assert file.path.read_bytes() == packed
    assert stub.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (404, SourceError, "There is no file at"),
        (410, SourceError, "There is no file at"),
        (401, SourceError, "refuses"),
        (403, SourceError, "refuses"),
        (400, SourceError, "answered 400 Bad Request"),
        (304, SourceError, "answered 304"),
        (501, SourceError, "answered 501"),
        (408, Unavailable, "try again later"),
        (425, Unavailable, "try again later"),
        (429, Unavailable, "answered 429 Too Many Requests"),
        (500, Unavailable, "try again later"),
        (502, Unavailable, "try again later"),
        (503, Unavailable, "try again later"),
        (504, Unavailable, "try again later"),
    ],
)
def test_a_status_tells_whether_another_try_helps(
    stub: Stub, tmp_path: Path, status: int, kind: type[TaxiError], words: str
) -> None:
    stub.respond = lambda _: Answer(status, b"<html>no</html>" if status != 304 else b"")
    sentence = refusal(kind, stub.url(), tmp_path)
    assert words in sentence and str(status) in sentence and stub.url() in sentence
    assert len(stub.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_worth_another_try(closed_port: int, tmp_path: Path) -> None:
    sentence = refusal(Unavailable, f"http://127.0.0.1:{closed_port}/{NAME}", tmp_path)
    assert "broke off (ConnectError)" in sentence and "run again" in sentence


def test_a_download_that_stalls_is_given_up(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT", httpx.Timeout(0.2))
    stub.respond = lambda _: Answer(body=BODY, cut=1000, stalls=True)
    started = time.monotonic()
    assert "ReadTimeout" in refusal(Unavailable, stub.url(), tmp_path)
    assert time.monotonic() - started < 4
    assert not (tmp_path / NAME).exists()


def test_every_wait_for_a_server_is_bounded() -> None:
    assert None not in fetching.TIMEOUT.as_dict().values()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_download_cut_short_is_no_file(stub: Stub, tmp_path: Path, chunked: bool) -> None:
    stub.respond = lambda _: Answer(body=BODY, cut=1300, chunked=chunked)
    assert "run again" in refusal(Unavailable, stub.url(), tmp_path)
    assert not (tmp_path / NAME).exists()
    assert mode(tmp_path / f"{NAME}.part") == 0o600


def test_the_call_after_a_cut_asks_only_for_the_rest(stub: Stub, tmp_path: Path) -> None:
    stub.respond = a_file(BODY, cut=1300)
    refusal(Unavailable, stub.url(), tmp_path)
    stub.respond = a_file(BODY)
    told: list[tuple[int, float | None]] = []
    file = fetch(stub.url(), tmp_path, lambda *amounts: told.append(amounts))
    assert (file.path.read_bytes(), file.bytes) == (BODY, len(BODY))
    assert file.sha256 == hashlib.sha256(BODY).hexdigest()
    first, second = stub.requests
    assert "range" not in first.headers
    assert (second.headers["range"], second.headers["if-range"]) == ("bytes=1024-", '"v1"')
    assert told[0] == (1024 + 512, (1024 + 512) / len(BODY))
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert mode(file.path) == 0o600


def test_a_download_cut_twice_goes_on_from_the_second_cut(stub: Stub, tmp_path: Path) -> None:
    for _ in range(2):
        stub.respond = a_file(BODY, cut=1300)
        refusal(Unavailable, stub.url(), tmp_path)
    stub.respond = a_file(BODY)
    assert fetch(stub.url(), tmp_path).path.read_bytes() == BODY
    assert [request.headers.get("range") for request in stub.requests] == [None, "bytes=1024-", "bytes=2048-"]


@pytest.mark.parametrize("etag", [None, 'W/"v1"'], ids=["no ETag", "weak ETag"])
def test_a_file_that_cannot_be_told_from_a_newer_one_is_fetched_from_its_start(
    stub: Stub, tmp_path: Path, etag: str | None
) -> None:
    stub.respond = a_file(BODY, etag, cut=1300)
    refusal(Unavailable, stub.url(), tmp_path)
    stub.respond = a_file(OTHER, etag)
    assert fetch(stub.url(), tmp_path).path.read_bytes() == OTHER
    assert "range" not in stub.requests[-1].headers


@pytest.mark.parametrize(
    "later",
    [a_file(OTHER, '"v1"', ranges=False), a_file(OTHER, '"v2"'), a_file(OTHER, None, ranges=False)],
    ids=["Range ignored", "ETag changed", "ETag gone"],
)
def test_a_full_answer_to_a_request_for_the_rest_starts_over(
    stub: Stub, tmp_path: Path, later: Callable[[Request], Answer]
) -> None:
    stub.respond = a_file(BODY, cut=1300)
    refusal(Unavailable, stub.url(), tmp_path)
    stub.respond = later
    file = fetch(stub.url(), tmp_path)
    assert (file.path.read_bytes(), file.bytes) == (OTHER, len(OTHER))
    assert stub.requests[-1].headers["range"] == "bytes=1024-"


def test_a_part_is_not_gone_on_with_by_the_etag_of_an_earlier_part(stub: Stub, tmp_path: Path) -> None:
    for answer in (a_file(BODY, cut=1300), a_file(OTHER, None, ranges=False, cut=1300)):
        stub.respond = answer
        refusal(Unavailable, stub.url(), tmp_path)
    stub.respond = a_file(BODY)
    assert fetch(stub.url(), tmp_path).path.read_bytes() == BODY


def test_a_range_that_cannot_be_had_starts_over_on_the_call_after(stub: Stub, tmp_path: Path) -> None:
    stub.respond = a_file(BODY, cut=1300)
    refusal(Unavailable, stub.url(), tmp_path)
    stub.respond = a_file(BODY[:1000])
    assert "run again to start over" in refusal(Unavailable, stub.url(), tmp_path)
    assert fetch(stub.url(), tmp_path).path.read_bytes() == BODY[:1000]
    assert "range" not in stub.requests[-1].headers


def test_a_busy_server_does_not_cost_what_came_before(stub: Stub, tmp_path: Path) -> None:
    stub.respond = a_file(BODY, cut=1300)
    refusal(Unavailable, stub.url(), tmp_path)
    stub.respond = lambda _: Answer(503)
    refusal(Unavailable, stub.url(), tmp_path)
    stub.respond = a_file(BODY)
    assert fetch(stub.url(), tmp_path).path.read_bytes() == BODY
    assert stub.requests[-1].headers["range"] == "bytes=1024-"


def test_a_part_that_was_not_asked_for_is_not_appended(stub: Stub, tmp_path: Path) -> None:
    stub.respond = a_file(BODY, cut=1300)
    refusal(Unavailable, stub.url(), tmp_path)
    end = len(BODY) - 1
    stub.respond = lambda _: Answer(206, BODY, {"ETag": '"v1"', "Content-Range": f"bytes 0-{end}/{end + 1}"})
    refusal(Unavailable, stub.url(), tmp_path)
    stub.respond = lambda _: Answer(body=BODY)
    assert fetch(stub.url(), tmp_path).path.read_bytes() == BODY


def test_a_redirect_is_followed_and_the_given_url_recorded(stub: Stub, tmp_path: Path) -> None:
    stub.respond = lambda request: (
        Answer(body=BODY) if request.path == "/elsewhere.bin" else Answer(302, headers={"Location": "/elsewhere.bin"})
    )
    file = fetch(stub.url(), tmp_path)
    assert (file.path, file.source_url, file.path.read_bytes()) == (tmp_path / NAME, stub.url(), BODY)


def test_a_redirect_loop_ends(stub: Stub, tmp_path: Path) -> None:
    stub.respond = lambda request: Answer(302, headers={"Location": request.path})
    assert "redirects more than 5 times" in refusal(SourceError, stub.url(), tmp_path)
    assert len(stub.requests) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x.csv", "file:///etc/hostname"])
def test_a_redirect_leaves_http_for_nothing(stub: Stub, tmp_path: Path, location: str) -> None:
    stub.respond = lambda _: Answer(302, headers={"Location": location})
    assert "redirects to something that is not http" in refusal(SourceError, stub.url(), tmp_path)


def test_a_redirect_takes_no_credentials_to_another_host(stub: Stub, tmp_path: Path) -> None:
    with serve(a_file(BODY)) as other:
        stub.respond = lambda _: Answer(302, headers={"Location": other.url()})
        fetch(stub.url(login=LOGIN), tmp_path)
    assert stub.requests[0].headers["authorization"].startswith("Basic ")
    assert "authorization" not in other.requests[0].headers


def test_credentials_are_sent_but_not_recorded(stub: Stub, tmp_path: Path) -> None:
    file = fetch(stub.url(f"/{NAME}?sig={SECRET}", LOGIN), tmp_path)
    assert file.source_url == stub.url()
    assert file.path == tmp_path / NAME
    assert stub.requests[0].path == f"/{NAME}?sig={SECRET}"
    assert "authorization" in stub.requests[0].headers


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (SourceError, Answer(404)),
        (SourceError, Answer(403)),
        (SourceError, Answer(400)),
        (Unavailable, Answer(416)),
        (Unavailable, Answer(503)),
        (Unavailable, Answer(body=BODY, cut=1300)),
        (SourceError, Answer(302, headers={"Location": f"/{NAME}?sig={SECRET}"})),
        (SourceError, Answer(302, headers={"Location": f"ftp://{LOGIN}@127.0.0.1/?sig={SECRET}"})),
    ],
    ids=["404", "403", "400", "416", "503", "cut", "loop", "ftp"],
)
def test_no_error_tells_credentials(stub: Stub, tmp_path: Path, kind: type[TaxiError], answer: Answer) -> None:
    stub.respond = lambda _: answer
    sentence = refusal(kind, stub.url(f"/{NAME}?sig={SECRET}", LOGIN), tmp_path)
    assert SECRET not in sentence and stub.url() in sentence


def test_no_error_before_an_answer_tells_credentials(closed_port: int, tmp_path: Path) -> None:
    for kind, scheme in ((Unavailable, "http"), (SourceError, "ftp")):
        source = f"{scheme}://{LOGIN}@127.0.0.1:{closed_port}/{NAME}?sig={SECRET}"
        assert SECRET not in refusal(kind, source, tmp_path)
    missing = tmp_path / "missing"
    with serve(a_file(BODY)) as stub:
        assert SECRET not in refusal(SourceError, stub.url(f"/{NAME}?sig={SECRET}", LOGIN), missing)


def test_no_log_line_tells_credentials(stub: Stub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fetch(stub.url(f"/{NAME}?sig={SECRET}", LOGIN), tmp_path)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("http://user:token@host:81/a/x.csv?sig=1#part", "http://host:81/a/x.csv"),
        ("https://token@host/x.csv", "https://host/x.csv"),
        ("s3://key:secret@bucket/x.csv?sig=1", "s3://bucket/x.csv"),
        ("/data/what?/x@y.csv", "/data/what?/x@y.csv"),
        ("http://u:p@[::1]:81/x.csv", "http://[::1]:81/x.csv"),
    ],
)
def test_a_source_is_shown_without_what_may_be_secret(source: str, shown: str) -> None:
    assert without_credentials(source) == shown


@pytest.mark.parametrize(
    ("source", "given", "month"),
    [
        (f"https://example.org/{NAME}?sig=1", None, "2021-01"),
        (f"/data/{NAME}", "2020-12", "2020-12"),
        ("/data/trips.csv", " 2020-12", "2020-12"),
    ],
)
def test_the_month_is_the_given_one_or_else_the_names(source: str, given: str | None, month: str) -> None:
    assert locate(source, given, TEMPLATE) == (source, month)


def test_a_month_without_a_source_is_looked_for_where_the_template_says() -> None:
    assert locate(None, " 2021-02", TEMPLATE) == ("https://example.org/2021-02/trips_2021-02.parquet", "2021-02")


@pytest.mark.parametrize(
    ("source", "given", "words"),
    [
        (f"https://{LOGIN}@example.org/trips.csv?sig={SECRET}", None, "give it as --month YYYY-MM"),
        ("/data/yellow_tripdata_2008-12.csv", None, "no yellow-taxi files before 2009-01"),
        (f"/data/{NAME}", "2021-13", "is not a month"),
        (None, "../2021-01", "is not a month"),
        (None, None, "give --month YYYY-MM, or --source"),
    ],
)
def test_a_source_without_a_month_is_refused_before_it_is_fetched(
    source: str | None, given: str | None, words: str
) -> None:
    with pytest.raises(UsageError) as error:
        locate(source, given, TEMPLATE)
    assert words in str(error.value) and SECRET not in str(error.value)


@pytest.mark.parametrize("source", ["ftp://host/x.csv", "file:///etc/hostname", "s3://bucket/x.csv", "a://b"])
def test_other_schemes_are_refused(source: str, tmp_path: Path) -> None:
    assert is_url(source)
    sentence = refusal(SourceError, source, tmp_path)
    assert source in sentence and "give an http or https URL, or the path of a file" in sentence


def test_a_url_with_a_control_character_is_refused(tmp_path: Path) -> None:
    assert "is not valid: check the address" in refusal(SourceError, "http://127.0.0.1/x\0.csv", tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "http://127.0.0.1:port/x.csv",
        "http://127.0.0.1:99999/x.csv",
        "http://[::1/x.csv",
    ],
    ids=["port is no number", "port out of range", "bracket not closed"],
)
def test_a_url_that_cannot_be_used_is_refused_in_a_sentence(source: str, tmp_path: Path) -> None:
    refusal(SourceError, source, tmp_path)


@pytest.mark.parametrize("path", ["/a/..", f"/{'x' * 300}.csv", "/%2e%2e%2fescaped"])
def test_a_name_that_cannot_be_stored_is_replaced(stub: Stub, tmp_path: Path, path: str) -> None:
    assert fetch(stub.url(path), tmp_path).path == tmp_path / "download"


def test_a_folder_that_is_not_there_is_named(stub: Stub, tmp_path: Path) -> None:
    sentence = refusal(SourceError, stub.url(), tmp_path / "missing")
    assert f"cannot be stored in {tmp_path / 'missing'}" in sentence


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").symlink_to("/dev/full")
    sentence = refusal(SourceError, stub.url(), tmp_path)
    assert "No space left on device" in sentence and "free some room" in sentence


def test_a_path_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAME).write_bytes(BODY)
    monkeypatch.chdir(tmp_path)
    file = fetch(NAME, tmp_path / "folder")
    assert file.path.read_bytes() == BODY
    assert (file.source_url, file.sha256, file.bytes) == (
        str(tmp_path / NAME), hashlib.sha256(BODY).hexdigest(), len(BODY)
    )  # fmt: skip
    assert not (tmp_path / "folder").exists()


def test_a_path_may_start_at_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAME).write_bytes(BODY)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch(f"~/{NAME}", tmp_path).source_url == str(tmp_path / NAME)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    sentence = refusal(SourceError, str(tmp_path / NAME), tmp_path)
    assert f"There is no file {tmp_path / NAME}" in sentence and "check the path" in sentence


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "is not a regular file" in refusal(SourceError, str(tmp_path), tmp_path)


@pytest.mark.timeout(10)
def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.csv")
    assert "is not a regular file" in refusal(SourceError, str(tmp_path / "fifo.csv"), tmp_path)


def test_a_file_that_may_not_be_read_is_refused(reachable: Path, tmp_path: Path) -> None:
    (reachable / NAME).write_bytes(BODY)
    (reachable / NAME).chmod(0)
    with nobody():
        sentence = refusal(SourceError, str(reachable / NAME), tmp_path)
    assert "Permission denied" in sentence and "check its permissions" in sentence


def test_a_file_in_a_closed_folder_is_refused(reachable: Path, tmp_path: Path) -> None:
    (reachable / "closed").mkdir(mode=0o700)
    (reachable / "closed" / NAME).write_bytes(BODY)
    if os.geteuid():
        (reachable / "closed").chmod(0)
    try:
        with nobody():
            refusal(SourceError, str(reachable / "closed" / NAME), tmp_path)
    finally:
        (reachable / "closed").chmod(0o700)


@pytest.mark.parametrize("source", [f"/tmp/{'x' * 300}.csv", "~no-such-user/x.csv"])
def test_a_path_that_cannot_be_used_is_refused_in_a_sentence(source: str, tmp_path: Path) -> None:
    refusal(SourceError, source, tmp_path)


# --- a month that the TLC has not published yet


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_recent_month_that_is_not_there_is_not_published_yet(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(fetching, "may_be_unpublished", lambda month: month == "2021-01")
    stub.respond = lambda _: Answer(status)
    with pytest.raises(NotPublished, match=f"^2021-01 is not published yet .*{status}"):
        fetch(stub.url(), tmp_path, month="2021-01")
    with pytest.raises(SourceError) as old:
        fetch(stub.url(), tmp_path, month="2020-01")
    assert not isinstance(old.value, NotPublished)
    assert len(stub.requests) == 2


def test_a_server_that_fails_does_not_say_that_a_month_is_not_published(stub: Stub, tmp_path: Path) -> None:
    stub.respond = lambda _: Answer(500)
    with pytest.raises(Unavailable):
        fetch(stub.url(), tmp_path, month=date.today().isoformat()[:7])


def test_what_a_killed_run_downloaded_goes_with_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "from prefect_flows.fetch import download_folder as f\nwith f() as folder: print(folder, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout
        theirs = Path(other.stdout.readline().strip())
        (theirs / "half a file").touch()
        with download_folder() as ours:
            assert {theirs, ours} == set(tmp_path.iterdir())
        other.kill()
    with download_folder() as ours:
        assert [ours] == list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
