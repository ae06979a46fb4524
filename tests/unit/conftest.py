"""Where the tests of the readers put their files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.reading import NAME


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of the given bytes."""

    def written(content: bytes, name: str = NAME) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return written


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One path for the files of a property's examples."""
    return tmp_path_factory.mktemp("damaged") / NAME
