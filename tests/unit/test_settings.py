"""Settings: names, defaults, what is refused, what stays secret; and that dbt reads the same from the environment."""

import os
import re
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbt.config.profile import Profile
from dbt.config.renderer import ProfileRenderer
from dbt.flags import set_from_args
from dbt_common.context import set_invocation_context
from pydantic import SecretStr

from prefect_flows.errors import UsageError
from prefect_flows.settings import PROJECT_ROOT, Settings, in_environment, load_settings

SECRET = "canary"
DEFAULTS: dict[str, Any] = {
    "target": "duckdb",
    "cratedb_url": None,
    "cratedb_host": "localhost",
    "cratedb_http_port": 4200,
    "cratedb_pg_port": 5432,
    "cratedb_user": "crate",
    "cratedb_password": SecretStr(""),
    "cratedb_password_block": None,
    "cratedb_sslmode": "prefer",
    "cratedb_sslrootcert": None,
    "cratedb_schema": "doc",
    "cratedb_replicas": "0-1",
    "raw_schema": "raw",
    "duckdb_path": PROJECT_ROOT / "warehouse.duckdb",
    "source_template": "https://d37ci6vzurychx.cloudfront.net/trip-data/yellow_tripdata_{month}.parquet",
    "parallel_months": 2,
    "max_reject_share": 0.01,
    "max_lost_share": 0.05,
    "keep_loads": 1,
    "report_dir": PROJECT_ROOT / "reports",
}
NAMES = {str(field.alias) for field in Settings.model_fields.values()}


@pytest.fixture(autouse=True)
def nobodys_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def with_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def refusal(**given: Any) -> str:
    with pytest.raises(UsageError) as error:
        load_settings(**given)
    sentence = str(error.value)
    assert sentence.endswith(".") and not sentence.endswith("..") and "\n" not in sentence
    assert error.value.__cause__ is None and error.value.__suppress_context__
    return sentence


# --- names and defaults


def test_nothing_set_gives_the_defaults() -> None:
    assert dict(load_settings()) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("TAXI_TARGET", "cratedb", "target", "cratedb"),
        ("CRATEDB_HOST", "db.example", "cratedb_host", "db.example"),
        ("CRATEDB_HTTP_PORT", "4201", "cratedb_http_port", 4201),
        ("CRATEDB_PG_PORT", "5433", "cratedb_pg_port", 5433),
        ("CRATEDB_USER", "taxi", "cratedb_user", "taxi"),
        ("CRATEDB_PASSWORD", "0123", "cratedb_password", SecretStr("0123")),
        ("CRATEDB_SSLMODE", "verify-full", "cratedb_sslmode", "verify-full"),
        ("CRATEDB_SSLROOTCERT", "/etc/ca.pem", "cratedb_sslrootcert", Path("/etc/ca.pem")),
        ("CRATEDB_SCHEMA", "taxi_2", "cratedb_schema", "taxi_2"),
        ("CRATEDB_REPLICAS", "1-all", "cratedb_replicas", "1-all"),
        ("TAXI_RAW_SCHEMA", "raw_taxi", "raw_schema", "raw_taxi"),
        ("DUCKDB_PATH", "/data/taxi.duckdb", "duckdb_path", Path("/data/taxi.duckdb")),
        ("TAXI_SOURCE_TEMPLATE", "/data/{month}.csv", "source_template", "/data/{month}.csv"),
        ("TAXI_SOURCE_TEMPLATE", "data/{month}.csv", "source_template", str(PROJECT_ROOT / "data/{month}.csv")),
        ("TAXI_PARALLEL_MONTHS", "4", "parallel_months", 4),
        ("TAXI_MAX_REJECT_SHARE", "0.5", "max_reject_share", 0.5),
        ("TAXI_MAX_LOST_SHARE", "0.2", "max_lost_share", 0.2),
        ("TAXI_KEEP_LOADS", "0", "keep_loads", 0),
        ("TAXI_REPORT_DIR", "/srv/reports", "report_dir", Path("/srv/reports")),
    ],
)
def test_each_setting_has_its_name_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: object
) -> None:
    assert dict(with_environment(monkeypatch, {name: value})) == DEFAULTS | {field: expected}


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dict(with_environment(monkeypatch, dict.fromkeys(NAMES, ""))) == DEFAULTS


def test_the_env_file_is_read_and_the_environment_decides_over_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("TAXI_TARGET=cratedb\nTAXI_KEEP_LOADS=3\nUNRELATED=1\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    settings = with_environment(monkeypatch, {"TAXI_KEEP_LOADS": "5"})
    assert (settings.target, settings.keep_loads) == ("cratedb", 5)


def test_what_is_given_decides_over_the_environment_and_none_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAXI_TARGET", "cratedb")
    monkeypatch.setenv("TAXI_MAX_REJECT_SHARE", "0.5")
    settings = load_settings(target="duckdb", max_reject_share=None)
    assert (settings.target, settings.max_reject_share) == ("duckdb", 0.5)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("taxi.duckdb", PROJECT_ROOT / "taxi.duckdb"),
        ("data/taxi.duckdb", PROJECT_ROOT / "data" / "taxi.duckdb"),
        ("/data/taxi.duckdb", Path("/data/taxi.duckdb")),
    ],
)
def test_a_relative_duckdb_path_starts_at_the_projects_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_environment(monkeypatch, {"DUCKDB_PATH": given}).duckdb_path == path


# --- CRATEDB_URL


@pytest.mark.parametrize(
    ("url", "changes"),
    [
        ("crate://db.example", {"cratedb_host": "db.example"}),
        ("crate://db.example:4201", {"cratedb_host": "db.example", "cratedb_http_port": 4201}),
        ("crate://db.example:4201/", {"cratedb_host": "db.example", "cratedb_http_port": 4201}),
        ("cratedb://db.example", {"cratedb_host": "db.example"}),
        ("crate://taxi@db.example", {"cratedb_host": "db.example", "cratedb_user": "taxi"}),
        (
            "crate://taxi:secret@db.example:4201?ssl=true",
            {
                "cratedb_host": "db.example",
                "cratedb_http_port": 4201,
                "cratedb_user": "taxi",
                "cratedb_password": SecretStr("secret"),
                "cratedb_sslmode": "require",
            },
        ),
        (
            "crate://ta%40xi:s%2Fe%3Ac%25r%40t@db.example",
            {"cratedb_host": "db.example", "cratedb_user": "ta@xi", "cratedb_password": SecretStr("s/e:c%r@t")},
        ),
        (
            "crate://taxi:a#b/c?d@db.example",
            {"cratedb_host": "db.example", "cratedb_user": "taxi", "cratedb_password": SecretStr("a#b/c?d")},
        ),
        ("crate://[::1]:4201", {"cratedb_host": "::1", "cratedb_http_port": 4201}),
        ("crate://db.example?ssl=1", {"cratedb_host": "db.example", "cratedb_sslmode": "require"}),
        ("crate://db.example?ssl=TRUE", {"cratedb_host": "db.example", "cratedb_sslmode": "require"}),
        ("crate://db.example?ssl=false", {"cratedb_host": "db.example"}),
        ("crate://db.example?assl=true", {"cratedb_host": "db.example"}),
    ],
)
def test_the_url_is_taken_apart(monkeypatch: pytest.MonkeyPatch, url: str, changes: dict[str, Any]) -> None:
    settings = with_environment(monkeypatch, {"CRATEDB_URL": url})
    assert dict(settings) == DEFAULTS | {"cratedb_url": SecretStr(url)} | changes


SINGLE = {
    "CRATEDB_HOST": "other.example",
    "CRATEDB_HTTP_PORT": "4299",
    "CRATEDB_USER": "other",
    "CRATEDB_PASSWORD": "else",
    "CRATEDB_SSLMODE": "verify-ca",
}


def test_the_url_decides_over_the_single_settings_that_it_contains(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_environment(monkeypatch, SINGLE | {"CRATEDB_URL": "crate://taxi:secret@db.example:4201"})
    assert (settings.cratedb_host, settings.cratedb_http_port) == ("db.example", 4201)
    assert (settings.cratedb_user, settings.cratedb_password) == ("taxi", SecretStr("secret"))
    assert settings.cratedb_sslmode == "verify-ca"


def test_single_settings_fill_what_the_url_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_environment(monkeypatch, SINGLE | {"CRATEDB_URL": "crate://db.example"})
    assert (settings.cratedb_host, settings.cratedb_http_port) == ("db.example", 4299)
    assert (settings.cratedb_user, settings.cratedb_password) == ("other", SecretStr("else"))


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_ssl_in_the_url_does_not_weaken_a_stricter_mode(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    settings = with_environment(monkeypatch, {"CRATEDB_SSLMODE": mode, "CRATEDB_URL": "crate://db.example?ssl=true"})
    assert settings.cratedb_sslmode == mode


@pytest.mark.parametrize(
    ("mode", "https", "verifies"),
    [
        ("disable", False, False),
        ("allow", False, False),
        ("prefer", False, False),
        ("require", True, False),
        ("verify-ca", True, True),
        ("verify-full", True, True),
    ],
)
def test_the_ssl_mode_holds_for_the_http_port(mode: str, https: bool, verifies: bool) -> None:
    settings = load_settings(cratedb_sslmode=mode)
    assert (settings.https, settings.verifies_tls) == (https, verifies)


def test_a_root_certificate_makes_require_verify() -> None:
    assert load_settings(cratedb_sslmode="require", cratedb_sslrootcert="/etc/ca.pem").verifies_tls


# --- refusals


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TAXI_TARGET", "postgres", "The setting TAXI_TARGET is 'postgres', but should be 'duckdb' or 'cratedb'."),
        ("CRATEDB_HTTP_PORT", "web", "The setting CRATEDB_HTTP_PORT is 'web', but should be a valid integer"),
        ("CRATEDB_HTTP_PORT", "0", "The setting CRATEDB_HTTP_PORT is '0', but should be greater than"),
        ("CRATEDB_HTTP_PORT", "65536", "The setting CRATEDB_HTTP_PORT is '65536', but should be less than"),
        ("CRATEDB_PG_PORT", "65536", "The setting CRATEDB_PG_PORT is '65536', but should be less than"),
        ("CRATEDB_SSLMODE", "on", "The setting CRATEDB_SSLMODE is 'on', but should be 'disable'"),
        ("CRATEDB_SCHEMA", "Doc", "The setting CRATEDB_SCHEMA is 'Doc', but"),
        ("CRATEDB_SCHEMA", "2021", "The setting CRATEDB_SCHEMA is '2021', but"),
        ("CRATEDB_SCHEMA", "doc; drop table x", "The setting CRATEDB_SCHEMA is 'doc; drop table x', but"),
        ("CRATEDB_SCHEMA", "doc\n", "The setting CRATEDB_SCHEMA is 'doc\\n', but"),
        ("CRATEDB_SCHEMA", "s" * 64, "The setting CRATEDB_SCHEMA is 's"),
        ("TAXI_RAW_SCHEMA", 'raw"', "The setting TAXI_RAW_SCHEMA is 'raw\"', but"),
        ("CRATEDB_REPLICAS", "1-", "The setting CRATEDB_REPLICAS is '1-', but"),
        ("CRATEDB_REPLICAS", "0') --", "The setting CRATEDB_REPLICAS is "),
        ("TAXI_MAX_REJECT_SHARE", "1.1", "The setting TAXI_MAX_REJECT_SHARE is '1.1', but should be less than"),
        ("TAXI_MAX_REJECT_SHARE", "-0.1", "The setting TAXI_MAX_REJECT_SHARE is '-0.1', but should be greater than"),
        ("TAXI_SOURCE_TEMPLATE", "x.csv", "The setting TAXI_SOURCE_TEMPLATE is 'x.csv', but should have {month} where"),
        ("TAXI_SOURCE_TEMPLATE", f"http://u:{SECRET}@h/x", "The setting TAXI_SOURCE_TEMPLATE should have {month}"),
        ("TAXI_PARALLEL_MONTHS", "0", "The setting TAXI_PARALLEL_MONTHS is '0', but should be greater than"),
        ("TAXI_KEEP_LOADS", "-1", "The setting TAXI_KEEP_LOADS is '-1', but should be greater than"),
        ("CRATEDB_URL", "http://db.example:4200", "CRATEDB_URL must look like crate://user:password@host:4200"),
        ("CRATEDB_URL", "db.example:4200", "CRATEDB_URL must look like crate://user:password@host:4200"),
        ("CRATEDB_URL", "crate://:4200", "CRATEDB_URL must look like crate://user:password@host:4200"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_the_settings_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    assert refusal().startswith(words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"target": "postgres"}, "The setting TAXI_TARGET is 'postgres', but should be 'duckdb' or 'cratedb'."),
        ({"max_reject_share": 2}, "The setting TAXI_MAX_REJECT_SHARE is 2, but should be less than or equal to 1."),
    ],
)
def test_an_option_that_is_not_allowed_is_refused_by_the_settings_name(given: dict[str, Any], words: str) -> None:
    assert refusal(**given) == words


@pytest.mark.parametrize("url", ["crate://db.example:99999", "crate://db.example:web", "crate://[::1"])
def test_a_url_that_cannot_be_taken_apart_is_refused_by_the_settings_name(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("CRATEDB_URL", url)
    assert "CRATEDB_URL" in refusal()


# --- secrets


@pytest.mark.parametrize("name", ["CRATEDB_PASSWORD", "CRATEDB_URL"])
def test_a_password_is_in_no_text_about_the_settings(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value = SECRET if name == "CRATEDB_PASSWORD" else f"crate://taxi:{SECRET}@db.example:4200"
    settings = with_environment(monkeypatch, {name: value, "TAXI_TARGET": "cratedb"})
    assert settings.cratedb_password.get_secret_value() == SECRET
    texts = (repr(settings), str(settings), settings.warehouse, repr(settings.model_dump()), settings.model_dump_json())
    assert SECRET not in "".join(texts)


def test_a_refusal_of_one_setting_does_not_tell_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRATEDB_PASSWORD", SECRET)
    monkeypatch.setenv("TAXI_TARGET", "postgres")
    assert SECRET not in refusal()


@pytest.mark.parametrize(
    "url",
    [
        f"http://taxi:{SECRET}@db.example:4200",
        f"taxi:{SECRET}@db.example:4200",
        f"crate://taxi:{SECRET}@",
        f"crate://taxi:{SECRET}@db.example:web",
    ],
)
def test_a_refused_url_does_not_tell_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("CRATEDB_URL", url)
    assert SECRET not in refusal()


@pytest.mark.parametrize(
    ("target", "shown"),
    [("duckdb", "/data/taxi.duckdb"), ("cratedb", "CrateDB at db.example:4200, schema doc")],
)
def test_the_warehouse_is_told_by_where_it_is(target: str, shown: str) -> None:
    settings = load_settings(target=target, duckdb_path="/data/taxi.duckdb", cratedb_host="db.example")
    assert settings.warehouse == shown


# --- the same settings for dbt

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "nothing": {},
    "empty variables": dict.fromkeys(sorted(NAMES), ""),
    "single settings": {
        "TAXI_TARGET": "cratedb",
        "CRATEDB_HOST": "db.example",
        "CRATEDB_PG_PORT": "5433",
        "CRATEDB_USER": "taxi",
        "CRATEDB_PASSWORD": "s:e@c/r?e#t%41 '\"\\",
        "CRATEDB_SCHEMA": "taxi",
        "CRATEDB_SSLMODE": "require",
    },
    "a password of digits": {"CRATEDB_PASSWORD": "0123", "CRATEDB_USER": "007"},
    "a password that looks like a template": {"CRATEDB_PASSWORD": "{{ 1 + 1 }}"},
    "verify-ca": {"CRATEDB_SSLMODE": "verify-ca", "CRATEDB_SSLROOTCERT": "/etc/ca.pem"},
    "verify-full": {"CRATEDB_SSLMODE": "verify-full", "CRATEDB_SSLROOTCERT": "/etc/ca.pem"},
    "verify-full by the system's authorities": {"CRATEDB_SSLMODE": "verify-full"},
    "DuckDB, absolute": {"TAXI_TARGET": "duckdb", "DUCKDB_PATH": "/data/taxi.duckdb"},
    "DuckDB, relative": {"TAXI_TARGET": "duckdb", "DUCKDB_PATH": "data/taxi.duckdb"},
    "URL, host": {"CRATEDB_URL": "crate://db.example"},
    "URL, host and port": {"CRATEDB_URL": "crate://db.example:4201"},
    "URL, address": {"CRATEDB_URL": "crate://10.0.0.1:4201/"},
    "URL, user": {"CRATEDB_URL": "crate://taxi@db.example", "CRATEDB_PASSWORD": "secret"},
    "URL, user and password": {"CRATEDB_URL": "cratedb://taxi:secret@db.example:4201"},
    "URL, a colon in the password": {"CRATEDB_URL": "crate://taxi:se:cr:et@db.example:4201"},
    "URL, an at sign in the password": {"CRATEDB_URL": "crate://taxi:se@cret@db.example:4201"},
    "URL, ssl": {"CRATEDB_URL": "crate://taxi:secret@db.example:4201?ssl=true"},
    "URL, ssl behind a slash": {"CRATEDB_URL": "crate://taxi:secret@db.example:4201/?ssl=true"},
    "URL, ssl and verify-ca": {"CRATEDB_URL": "crate://db.example?ssl=true", "CRATEDB_SSLMODE": "verify-ca"},
    "URL, over single settings": SINGLE | {"CRATEDB_URL": "crate://taxi:secret@db.example:4201"},
    "URL, filled by single settings": SINGLE | {"CRATEDB_URL": "crate://db.example"},
    "URL, its password and another user": SINGLE | {"CRATEDB_URL": "crate://:secret@db.example"},
    "URL, percent-encoded password": {"CRATEDB_URL": "crate://taxi:s%2Fe%40t@db.example"},
    "URL, percent-encoded user": {"CRATEDB_URL": "crate://ta%40xi:secret@db.example"},
    "URL, signs in the password": {"CRATEDB_URL": "crate://taxi:a#b/c?d\\x41é%C3%A9@db.example"},
    "URL, IPv6": {"CRATEDB_URL": "crate://taxi:secret@[::1]:4201"},
    "URL, ssl=1": {"CRATEDB_URL": "crate://db.example?ssl=1"},
    "URL, ssl over prefer": {"CRATEDB_URL": "crate://db.example?ssl=true", "CRATEDB_SSLMODE": "prefer"},
    "URL, scheme in capitals": {"CRATEDB_URL": "CRATE://db.example"},
}


def dbt_reads(environment: dict[str, str]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The target that dbt takes by default, and its connections to CrateDB and DuckDB, by dbt's own profile loading."""
    set_from_args(Namespace(), None)
    set_invocation_context(environment)
    raw = yaml.safe_load((PROJECT_ROOT / "profiles.yml").read_text())
    default, *profiles = (
        Profile.from_raw_profiles(raw, "taxi_elt", ProfileRenderer({}), target_override=target)
        for target in (None, "cratedb", "duckdb")
    )
    crate, duck = (profile.credentials.to_dict() for profile in profiles)
    return default.target_name, crate, duck


def agrees(settings: Settings, environment: dict[str, str]) -> None:
    target, crate, duck = dbt_reads(environment)
    assert target == settings.target
    assert {name: crate.get(name) for name in ("host", "port", "user", "pass", "schema", "sslmode")} == {
        "host": settings.cratedb_host,
        "port": settings.cratedb_pg_port,
        "user": settings.cratedb_user,
        "pass": settings.cratedb_password.get_secret_value(),
        "schema": settings.cratedb_schema,
        "sslmode": settings.cratedb_sslmode,
    }
    system = "system" if settings.cratedb_sslmode == "verify-full" else ""
    assert crate["sslrootcert"] == str(settings.cratedb_sslrootcert or system)
    assert (PROJECT_ROOT / duck["path"], duck["schema"]) == (settings.duckdb_path, "main")


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_dbt_alone_reads_the_same_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    agrees(with_environment(monkeypatch, environment), environment)


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_dbt_in_a_flow_reads_what_the_flow_has(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    settings = with_environment(monkeypatch, environment)
    agrees(settings, environment | settings.environment())


@pytest.mark.parametrize("fails", [False, True])
def test_the_environment_is_the_flows_for_as_long_as_dbt_runs(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.setenv("CRATEDB_HOST", "left from before")
    settings = load_settings(target="cratedb", cratedb_host="db.example")
    before = dict(os.environ)
    with suppress(InterruptedError), in_environment(settings):
        assert {name: os.environ[name] for name in settings.environment()} == settings.environment()
        if fails:
            raise InterruptedError
    assert dict(os.environ) == before


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_settings_that_are_read_while_dbt_runs_are_the_flows(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    before = with_environment(monkeypatch, environment)
    with in_environment(before):
        after = load_settings()
    assert after.model_dump(exclude={"cratedb_url"}) == before.model_dump(exclude={"cratedb_url"})


def test_every_variable_that_dbt_reads_is_handed_over() -> None:
    files = [PROJECT_ROOT / "profiles.yml", PROJECT_ROOT / "dbt_project.yml", *PROJECT_ROOT.glob("dbt_project/**/*.*")]
    read = {name for file in files for name in re.findall(r"env_var\(\s*['\"](\w+)", file.read_text())}
    assert "CRATEDB_HOST" in read
    # what a run is about, and an analyst's own schema, are no settings of the flows
    others = {"TAXI_MONTHS", "TAXI_DEV_SCHEMA"}
    assert {name for name in read if not name.startswith("DBT_")} <= set(load_settings().environment()) | others
