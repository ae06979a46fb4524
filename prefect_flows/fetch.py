"""A URL or a path becomes a local file whose bytes are known: fetched whole, counted, hashed.

Comes in: an http(s) URL, or the path of a file on this machine. Goes out: a `SourceFile`. A download is written to
a file beside its final name and resumed where the server can; its length is checked against what the server
announced. What can go wrong is said apart: `Unavailable` (worth another try) and `SourceError` (not worth it).
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx

from prefect_flows.errors import NotPublished, SourceError, Unavailable, UsageError
from prefect_flows.tlc import may_be_unpublished, month_of, parse_month

CHUNK_BYTES = 1 << 20
TIMEOUT = httpx.Timeout(connect=10, read=30, write=30, pool=10)
MAX_REDIRECTS = 5
# Statuses that say "not now" (RFC 9110, RFC 6585); every other error status says "no".
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
# How a server says that a file is not there: storage such as S3 answers 403 where it may not be listed.
ABSENT = frozenset({403, 404, 410})

_FILE_NAME = re.compile(r"[\w-][\w.-]{0,99}")

# It logs every request with its whole URL, credentials included.
logging.getLogger("httpx").setLevel(logging.WARNING)

OnBytes = Callable[[int, float | None], None]


@dataclass(frozen=True)
class SourceFile:
    """A verified file: where it lies, where it came from (without credentials), its SHA-256 and its size in bytes."""

    path: Path
    source_url: str
    sha256: str
    bytes: int


def is_url(source: str) -> bool:
    """Whether a source is a URL rather than a path."""
    return "://" in source


def without_credentials(source: str) -> str:
    """A source as it may be shown: a URL's user, password and query left out."""
    if not is_url(source):
        return source
    try:
        parts = urlsplit(source)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))
    except ValueError:
        return "the URL"


def locate(source: str | None, month: str | None, template: str) -> tuple[str, str]:
    """Which file to load as which month.

    Args:
        source: URL or path; None looks for the month where the template says.
        month: `YYYY-MM`; None takes it from the source's file name.
        template: URL or path with `{month}` in it.

    Raises:
        UsageError: neither tells the month, or it is not a month.
    """
    if source is None and month is None:
        raise UsageError("Nothing tells what to load: give --month YYYY-MM, or --source with a month's file.")
    told = month or month_of(source or "")
    if not told:
        raise UsageError(
            f"The name of {without_credentials(source or '')} does not tell its month: give it as --month YYYY-MM."
        )
    told = parse_month(told)
    return source or template.replace("{month}", told), told


@contextmanager
def download_folder() -> Iterator[Path]:
    """A temporary folder for downloads, gone afterwards. What runs that were killed left of theirs goes first: a lock
    on its folder ends with its process."""
    for left in Path(tempfile.gettempdir()).glob("taxi-elt-*"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix="new-taxi-elt-"))
    with _locked(folder):
        # only now may others come across it
        folder = folder.rename(folder.with_name(folder.name.removeprefix("new-")))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def fetch(source: str, folder: Path, on_bytes: OnBytes | None = None, *, month: str | None = None) -> SourceFile:
    """Bring a source to this machine.

    Args:
        source: an http(s) URL or a path.
        folder: where a download is put; a path's own file is read where it lies.
        on_bytes: told the bytes so far and, where it is known, the share of the file that they are.
        month: the month it is, to tell one that is not published yet.

    Raises:
        NotPublished: there is no such file at the URL, and the month is recent.
        SourceError: there is no such file, or it may not be read.
        Unavailable: the server did not answer, is busy, or sent less than it announced.
    """
    if not is_url(source):
        return _local(source)
    shown = without_credentials(source)
    try:
        url, _ = httpx.URL(source), urlsplit(source).port
    except (httpx.InvalidURL, ValueError):
        raise SourceError(f"{shown} given as --source is not valid: check the address.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise SourceError(f"{shown} cannot be fetched: give an http or https URL, or the path of a file.")
    return _download(source, folder, on_bytes, month)


def _local(source: str) -> SourceFile:
    try:
        path = Path(source).expanduser()
        if not path.exists():
            raise SourceError(f"There is no file {path}: check the path given as --source.")
        if not path.is_file():
            raise SourceError(f"{path} is not a regular file: give the path of one month's file as --source.")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return SourceFile(path, str(path.resolve()), digest, path.stat().st_size)
    except OSError as error:
        raise SourceError(f"{source} cannot be read ({error.strerror}): check its permissions.") from None
    except RuntimeError as error:  # no such user in ~user
        raise SourceError(f"{source} cannot be read ({error}): check the path given as --source.") from None


def _download(url: str, folder: Path, on_bytes: OnBytes | None, month: str | None) -> SourceFile:
    shown = without_credentials(url)
    name = Path(urlsplit(url).path).name
    if not _FILE_NAME.fullmatch(name):
        name = "download"
    target, part, tag = folder / name, folder / f"{name}.part", folder / f"{name}.etag"
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    # `identity`: the file's own gzip is its content, and a length can only be checked when nothing is encoded on top.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
    try:
        with (
            httpx.Client(timeout=TIMEOUT, follow_redirects=True, max_redirects=MAX_REDIRECTS) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)
            _check(response, shown, month)
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                have = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink(missing_ok=True)
                raise Unavailable(f"The server of {shown} sent another part than it was asked for: run again.")
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            tag.unlink(missing_ok=True)
            if (etag := response.headers.get("ETag", "")) and not etag.startswith("W/"):
                tag.write_text(etag)
            received = _receive(response, part, have, total, on_bytes)
    except httpx.TooManyRedirects:
        raise SourceError(f"{shown} redirects more than {MAX_REDIRECTS} times: check the URL.") from None
    except httpx.UnsupportedProtocol:
        raise SourceError(f"{shown} redirects to something that is not http or https: check the URL.") from None
    except httpx.InvalidURL:
        raise SourceError(f"{shown} redirects to something that is not a URL: check the URL.") from None
    except httpx.HTTPError as error:
        raise Unavailable(
            f"The download of {shown} broke off ({type(error).__name__}): check the network and run again."
        ) from None
    except OSError as error:
        raise SourceError(
            f"{shown} cannot be stored in {folder} ({error.strerror}): free some room there, or set TMPDIR."
        ) from None
    if total is not None and received != total:
        raise Unavailable(f"{shown} was cut short: {received:,} of {total:,} bytes came; run again.")
    part.replace(target)
    tag.unlink(missing_ok=True)
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return SourceFile(target, shown, digest, received)


def _check(response: httpx.Response, shown: str, month: str | None) -> None:
    status = response.status_code
    if status in BUSY:
        raise Unavailable(f"The server of {shown} answered {status} {response.reason_phrase}: try again later.")
    if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise Unavailable(f"{shown} changed while it was downloaded: run again to start over.")
    if status in ABSENT and month and may_be_unpublished(month):
        raise NotPublished(
            f"{month} is not published yet (the server answered {status} for {shown}): "
            "the TLC publishes a month about two months after its end, so try again later."
        )
    if status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
        raise SourceError(f"There is no file at {shown} (the server answered {status}): check the URL.")
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise SourceError(f"The server refuses {shown} (it answered {status}): check the URL and its access rights.")
    if not response.is_success:
        raise SourceError(f"The server answered {status} {response.reason_phrase} for {shown}: check the URL.")


def _receive(response: httpx.Response, part: Path, have: int, total: int | None, on_bytes: OnBytes | None) -> int:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if have else os.O_TRUNC)
    received = have
    with os.fdopen(os.open(part, flags, 0o600), "ab" if have else "wb") as file:
        for chunk in response.iter_raw(CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
            if on_bytes:
                on_bytes(received, received / total if total else None)
    return received
