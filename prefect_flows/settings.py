"""The project's settings: the environment and `.env`, the same names for the flows, the command line and dbt.

`load_settings` gives them checked; `Settings.environment` gives them back as the variables that `profiles.yml`
reads, so that a dbt run started by a flow sees exactly what the flow saw.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from prefect_flows.errors import UsageError
from prefect_flows.fetch import is_url
from prefect_flows.tlc import SOURCE_TEMPLATE

PROJECT_ROOT = Path(__file__).resolve().parent.parent

Target = Literal["duckdb", "cratedb"]
SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


def _from_root(path: Path) -> Path:
    return path if path.is_absolute() else PROJECT_ROOT / path


def _template(text: str) -> str:
    if "{month}" not in text:
        raise ValueError("should have {month} where the month stands, as in data/yellow_tripdata_{month}.csv")
    return text if is_url(text) else str(_from_root(Path(text).expanduser()))


SourceTemplate = Annotated[str, AfterValidator(_template)]
ParallelMonths = Annotated[int, Field(ge=1, le=32)]
Share = Annotated[float, Field(ge=0, le=1)]
RootedPath = Annotated[Path, AfterValidator(_from_root)]
# CrateDB folds unquoted names and the dbt adapter does not quote all of its own: lower case only.
SchemaName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]


# The password is what stands before the last @, so that one with # / ? or @ in it is understood and not shown.
_URL = re.compile(
    r"(?i:crate|cratedb)://(?:(?P<user>[^:/@]*)(?::(?P<password>.*))?@)?"
    r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:/?#@\[\]]+)(?::(?P<port>\d{1,5}))?/?(?:\?(?P<query>.*))?"
)


class Settings(BaseSettings):
    """One field a setting; the alias is its name in the environment and in `.env`."""

    model_config = SettingsConfigDict(
        env_file=PROJECT_ROOT / ".env", env_ignore_empty=True, extra="ignore", populate_by_name=True
    )

    target: Target = Field("duckdb", alias="TAXI_TARGET")
    cratedb_url: SecretStr | None = Field(None, alias="CRATEDB_URL")
    cratedb_host: str = Field("localhost", alias="CRATEDB_HOST")
    cratedb_http_port: int = Field(4200, alias="CRATEDB_HTTP_PORT", ge=1, le=65535)
    cratedb_pg_port: int = Field(5432, alias="CRATEDB_PG_PORT", ge=1, le=65535)
    cratedb_user: str = Field("crate", alias="CRATEDB_USER")
    cratedb_password: SecretStr = Field(SecretStr(""), alias="CRATEDB_PASSWORD")
    cratedb_password_block: str | None = Field(None, alias="CRATEDB_PASSWORD_BLOCK")
    cratedb_sslmode: SslMode = Field("prefer", alias="CRATEDB_SSLMODE")
    cratedb_sslrootcert: Path | None = Field(None, alias="CRATEDB_SSLROOTCERT")
    cratedb_schema: SchemaName = Field("doc", alias="CRATEDB_SCHEMA")
    cratedb_replicas: str = Field("0-1", alias="CRATEDB_REPLICAS", pattern=r"^\d+(-(\d+|all))?$")
    raw_schema: SchemaName = Field("raw", alias="TAXI_RAW_SCHEMA")
    duckdb_path: RootedPath = Field(Path("warehouse.duckdb"), alias="DUCKDB_PATH", validate_default=True)
    report_dir: RootedPath = Field(Path("reports"), alias="TAXI_REPORT_DIR", validate_default=True)
    source_template: SourceTemplate = Field(SOURCE_TEMPLATE, alias="TAXI_SOURCE_TEMPLATE")
    parallel_months: ParallelMonths = Field(2, alias="TAXI_PARALLEL_MONTHS")
    max_reject_share: Share = Field(0.01, alias="TAXI_MAX_REJECT_SHARE")
    max_lost_share: Share = Field(0.05, alias="TAXI_MAX_LOST_SHARE")
    keep_loads: int = Field(1, alias="TAXI_KEEP_LOADS", ge=0)

    @model_validator(mode="after")
    def _take_url_apart(self) -> Self:
        """`CRATEDB_URL`, where it is set, decides over the single settings that it contains."""
        if self.cratedb_url is None:
            return self
        url = _URL.fullmatch(self.cratedb_url.get_secret_value())
        if not url or not 0 < int(url["port"] or 4200) < 1 << 16:
            raise ValueError("CRATEDB_URL must look like crate://user:password@host:4200?ssl=true")
        self.cratedb_host = url["host"].strip("[]")
        if url["port"]:
            self.cratedb_http_port = int(url["port"])
        if url["user"]:
            self.cratedb_user = unquote(url["user"])
        if url["password"]:
            self.cratedb_password = SecretStr(unquote(url["password"]))
        if re.search(r"(?i)(^|&)ssl=(true|1)(&|$)", url["query"] or "") and not self.https:
            self.cratedb_sslmode = "require"
        return self

    @property
    def https(self) -> bool:
        """Whether CrateDB's HTTP port is spoken to over TLS: HTTP cannot negotiate it, so `prefer` means no."""
        return self.cratedb_sslmode in ("require", "verify-ca", "verify-full")

    @property
    def warehouse(self) -> str:
        """Where the tables are, for people to read; holds no password."""
        if self.target == "duckdb":
            return str(self.duckdb_path)
        return f"CrateDB at {self.cratedb_host}:{self.cratedb_http_port}, schema {self.cratedb_schema}"

    @property
    def verifies_tls(self) -> bool:
        """Whether the server's certificate is checked; as in libpq, `require` alone encrypts and checks nothing."""
        return self.cratedb_sslmode.startswith("verify-") or self.cratedb_sslrootcert is not None

    def environment(self) -> dict[str, str]:
        """The settings as the environment variables that `profiles.yml` and the dbt project read."""
        return {
            "TAXI_TARGET": self.target,
            "CRATEDB_URL": "",
            "CRATEDB_HOST": self.cratedb_host,
            "CRATEDB_HTTP_PORT": str(self.cratedb_http_port),
            "CRATEDB_PG_PORT": str(self.cratedb_pg_port),
            "CRATEDB_USER": self.cratedb_user,
            "CRATEDB_PASSWORD": self.cratedb_password.get_secret_value(),
            "CRATEDB_SSLMODE": self.cratedb_sslmode,
            "CRATEDB_SSLROOTCERT": str(self.cratedb_sslrootcert or ""),
            "CRATEDB_SCHEMA": self.cratedb_schema,
            "CRATEDB_REPLICAS": self.cratedb_replicas,
            "TAXI_RAW_SCHEMA": self.raw_schema,
            "DUCKDB_PATH": str(self.duckdb_path),
            "TAXI_MAX_REJECT_SHARE": str(self.max_reject_share),
            "TAXI_MAX_LOST_SHARE": str(self.max_lost_share),
        }


def load_settings(**given: Any) -> Settings:
    """The settings of this process; a keyword that is not None (a command line's option) decides over them.

    Raises:
        UsageError: a value is not allowed; the sentence names the setting, but never a value that may be secret.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise UsageError(_in_words(error)) from None


def _in_words(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return str(first["ctx"]["error"]) + "."
    name = str(first["loc"][0])
    alias = next((f.alias for n, f in Settings.model_fields.items() if name in (n, f.alias)), name)
    field = next(n for n, f in Settings.model_fields.items() if f.alias == alias)
    may_be_secret = "SecretStr" in str(Settings.model_fields[field].annotation) or is_url(str(first["input"]))
    value = "" if may_be_secret else f" is {first['input']!r}, but"
    message = re.sub("^(Input|Value error,) should", "should", str(first["msg"]))
    return f"The setting {alias}{value} {message[0].lower() + message[1:]}."


@contextmanager
def in_environment(settings: Settings, **more: str) -> Iterator[None]:
    """Put the settings into this process's environment, where an in-process dbt reads them, and take them out again;
    `more` goes in with them."""
    variables = settings.environment() | more
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
