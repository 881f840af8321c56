"""Loading the configuration: which layer wins, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from imsd.config import Config
from imsd.config_loading import ConfigRow, LoadedConfig, load_config, nearest
from imsd.contract import InvalidRequest


def rows_of(loaded: LoadedConfig) -> list[ConfigRow]:
    config = loaded.config
    return loaded.rows(config.stores, config.buckets, config.key_services)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "imsd.toml"
    path.write_text(text)
    return path


def sources(loaded: LoadedConfig) -> dict[str, str]:
    return {row.key: row.source for row in rows_of(loaded)}


def values(loaded: LoadedConfig) -> dict[str, str]:
    return {row.key: row.text for row in rows_of(loaded)}


def test_the_defaults_are_complete(tmp_path: Path) -> None:
    config = load_config(flags={"state_dir": tmp_path}).config
    assert config.stores == {"main": {"driver": "localfs", "path": str(tmp_path / "store")}}
    assert config.default_store == "main"
    assert config.database_url == f"sqlite+aiosqlite:///{tmp_path}/imsd.sqlite3"
    assert config.max_running_create_jobs == 40
    assert config.max_virtual_size_bytes == 64 << 40


def test_flags_win_over_the_environment_and_it_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, 'region = "file"\ndrain_seconds = 1\nlog_level = "debug"\n')
    monkeypatch.setenv("IMSD_REGION", "environment")
    monkeypatch.setenv("IMSD_DRAIN_SECONDS", "2")
    loaded = load_config(file, {"region": "flag", "log_level": None})
    assert (loaded.config.region, loaded.config.drain_seconds) == ("flag", 2.0)
    assert loaded.config.log_level == "debug"
    found = sources(loaded)
    assert found["region"] == "flag"
    assert found["drain_seconds"] == "environment"
    assert found["log_level"] == str(file)
    assert found["buffer_bytes"] == "default"


def test_sizes_modes_and_lists_are_understood_as_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMSD_BUFFER_BYTES", "64MiB")
    monkeypatch.setenv("IMSD_SOCKET_MODE", "0600")
    monkeypatch.setenv("IMSD_LISTEN", "unix:/tmp/a.sock, 127.0.0.1:0,[::1]:7070")
    monkeypatch.setenv("IMSD_DISABLED_PLUGINS", "one,two")
    loaded = load_config()
    assert loaded.config.buffer_bytes == 64 << 20
    assert loaded.config.socket_mode == 0o600
    assert loaded.config.listen == ("unix:/tmp/a.sock", "127.0.0.1:0", "[::1]:7070")
    assert loaded.config.disabled_plugins == ("one", "two")
    shown = values(loaded)
    assert shown["buffer_bytes"] == "64MiB"
    assert shown["socket_mode"] == "0600"
    assert shown["listen"] == "unix:/tmp/a.sock, 127.0.0.1:0, [::1]:7070"


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(flags={"state_dir": "state", "listen": ("unix:run/imsd.sock",)}).config
    assert config.state_dir == tmp_path / "state"
    assert config.listen == (f"unix:{tmp_path}/run/imsd.sock",)


def test_one_option_of_the_store_that_is_there_anyway_can_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMSD_STORES__MAIN__FSYNC", "false")
    loaded = load_config(flags={"state_dir": tmp_path})
    assert loaded.config.stores["main"] == {
        "driver": "localfs",
        "path": str(tmp_path / "store"),
        "fsync": "false",
    }
    assert sources(loaded)["stores.main.fsync"] == "environment"
    assert sources(loaded)["stores.main.path"] == "default"


def test_the_environment_changes_one_option_of_a_section_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, '[stores.fast]\ndriver = "localfs"\npath = "/fast"\nthreads = 2\n')
    monkeypatch.setenv("IMSD_STORES__FAST__THREADS", "8")
    loaded = load_config(file)
    assert loaded.config.stores == {"fast": {"driver": "localfs", "path": "/fast", "threads": "8"}}
    assert loaded.config.default_store == "fast"
    assert sources(loaded)["stores.fast.path"] == str(file)
    assert sources(loaded)["stores.fast.threads"] == "environment"


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("drain_secnds = 3\n", "unknown key 'drain_secnds'", "did you mean drain_seconds?"),
        ("drain_seconds = -1\n", "drain_seconds: ", "imsd config show"),
        ('log_level = "loud"\n', "log_level: ", "imsd config show"),
        ("region = 5\n", "region: ", "imsd config show"),
        ('region = "a b"\n', "region: ", "imsd config show"),
        ('listen = ["nonsense"]\n', "neither unix:PATH nor HOST:PORT", "imsd config show"),
        (
            'listen = ["127.0.0.1:65536"]\n',
            "must be 1 to 65535, or 0 for one that is free",
            "imsd config show",
        ),
        ('listen = ["127.0.0.1:x"]\n', "neither unix:PATH nor HOST:PORT", "imsd config show"),
        ('listen = ["127.0.0.1:²"]\n', "neither unix:PATH nor HOST:PORT", "imsd config show"),
        ('listen = ["0.0.0.0:7070"]\n', "reached from other machines", "imsd config show"),
        ('listen = ["unix:"]\n', "'unix:' names no socket", "imsd config show"),
        ('listen = ["unix://"]\n', "'unix://' names no socket", "imsd config show"),
        ("listen = []\n", "at least one address", "imsd config show"),
        (f'listen = ["unix:/{"x" * 107}"]\n', "at most 107 bytes", "imsd config show"),
        ('buffer_bytes = "1 lot"\n', "buffer_bytes: ", "imsd config show"),
        ("buffer_bytes = 0\n", "buffer_bytes: ", "imsd config show"),
        ('socket_group = "no-such-group"\n', "there is no group", "imsd config show"),
        ("stores = {}\n", "at least one store", "imsd config show"),
        ('default_store = "other"\n', "the stores are main", "imsd config show"),
        ('[stores."../x"]\ndriver = "localfs"\n', "no name for a store", "imsd config show"),
        ("region = \n", "is not TOML", "imsd config show"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place(
    tmp_path: Path, text: str, said: str, hint: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InvalidRequest) as caught:
        load_config(file)
    assert caught.value.reason == "INVALID_CONFIGURATION"
    assert said in caught.value.message
    assert hint in caught.value.hint
    if "the stores are" not in said:
        assert str(file) in caught.value.message


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMSD_DRAIN_SECNDS", "3")
    with pytest.raises(InvalidRequest) as caught:
        load_config()
    assert "IMSD_DRAIN_SECNDS" in caught.value.message
    assert caught.value.hint == "did you mean IMSD_DRAIN_SECONDS?"


def test_variables_of_the_clients_and_of_tests_are_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMSD_ADDRESS", "unix:/elsewhere")
    monkeypatch.setenv("IMSD_TEST_ANYTHING", "1")
    assert load_config().config.region == "local"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"missing\.toml cannot be read"):
        load_config(tmp_path / "missing.toml")


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        'database_url = "postgresql+asyncpg://ims:hush@db/ims"\n'
        '[stores.main]\ndriver = "s3"\nsecret_access_key = "hush"\nbucket = "images"\n',
    )
    shown = values(load_config(file))
    assert shown["database_url"] == "postgresql+asyncpg://ims:********@db/ims"
    assert shown["stores.main.secret_access_key"] == "********"
    assert shown["stores.main.bucket"] == "images"
    assert "hush" not in str(shown)


def test_where_a_secret_is_kept_is_no_secret(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        '[key_services.bao]\ndriver = "transit"\nsecret_id_file = "/etc/imsd/id"\n'
        'token_credential = "imsd-bao"\ntoken = "hush"\nsecret_file_key = "hush"\n',
    )
    shown = values(load_config(file))
    assert shown["key_services.bao.secret_id_file"] == "/etc/imsd/id"
    assert shown["key_services.bao.token_credential"] == "imsd-bao"
    assert "hush" not in str(shown)


def test_every_key_is_a_row(tmp_path: Path) -> None:
    shown = values(load_config(flags={"state_dir": tmp_path}))
    assert {key.split(".")[0] for key in shown} == set(Config.model_fields)


def test_a_configuration_never_changes() -> None:
    config = load_config().config
    with pytest.raises(ValueError, match="frozen"):
        config.region = "elsewhere"


def test_the_nearest_key_is_suggested_or_all_are_named() -> None:
    assert nearest("treads", ["threads", "path"]) == "did you mean threads?"
    assert nearest("zzz", ["threads", "path"]) == "the keys are path, threads"


def test_sections_are_merged_and_told_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, 'import_roots = ["/srv/a"]\n[url_import]\nports = [8443]\nconnections = 2\n')
    monkeypatch.setenv("IMSD_URL_IMPORT__CONNECTIONS", "3")
    monkeypatch.setenv("IMSD_URL_IMPORT__ALLOWED_NETWORKS", "10.0.0.0/8, fd00::/8")
    loaded = load_config(file)
    said = loaded.config.url_import
    assert (said.ports, said.connections, said.allow_http) == ((8443,), 3, False)
    assert list(map(str, said.allowed_networks)) == ["10.0.0.0/8", "fd00::/8"]
    assert loaded.config.import_roots == (Path("/srv/a"),)
    found = sources(loaded)
    assert found["url_import.ports"] == str(file)
    assert found["url_import.connections"] == "environment"
    assert found["url_import.retry_seconds"] == "default"
    assert values(loaded)["url_import.allowed_networks"] == "10.0.0.0/8, fd00::/8"


def test_roots_of_imports_can_be_for_some_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = 'import_roots = ["/srv/a", "/srv/b"]\n[import_root_projects]\n'
    loaded = load_config(written(tmp_path, roots + '"/srv/b/" = ["lab", "web"]\n'))
    assert loaded.config.import_root_projects == {"/srv/b": ("lab", "web")}
    assert values(loaded)["import_root_projects./srv/b"] == "lab, web"
    for wrong, said in (
        ('"/srv/c" = ["lab"]', "/srv/c is not among import_roots"),
        ('"/srv/b" = ["a b"]', "no project"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            load_config(written(tmp_path, f"{roots}{wrong}\n"))
    monkeypatch.setenv("IMSD_IMPORT_ROOTS", "/srv/a")
    monkeypatch.setenv("IMSD_IMPORT_ROOT_PROJECTS", '{"/srv/a": "lab, web"}')
    assert load_config(written(tmp_path, "")).config.import_root_projects == {"/srv/a": ("lab", "web")}


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("port = [8443]", "url_import.port", "unknown key"),
        ("ports = [0]", "url_import.ports", "greater than or equal to 1"),
        ('allowed_networks = ["10.0.0.1/8"]', "url_import.allowed_networks", "network"),
        ("connections = 0", "url_import.connections", "greater than or equal to 1"),
        ("stall_seconds = 0", "url_import.stall_seconds", "greater than 0"),
    ],
)
def test_a_mistake_in_a_section_is_told_with_its_place(
    tmp_path: Path, text: str, key: str, said: str
) -> None:
    file = written(tmp_path, f"[url_import]\n{text}\n")
    with pytest.raises(InvalidRequest) as refused:
        load_config(file)
    assert refused.value.reason == "INVALID_CONFIGURATION"
    assert refused.value.field == key
    assert str(file) in refused.value.message
    assert key in refused.value.message
    assert said in refused.value.message


def test_limits_and_quotas_are_changed_by_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMSD_LIMITS__MAX_IMPORT_BYTES", "256GiB")
    monkeypatch.setenv("IMSD_QUOTAS__IMAGES", "-1")
    loaded = load_config()
    assert loaded.config.limits.max_import_bytes == 256 << 30
    assert loaded.config.quotas.images == -1
    shown = values(loaded)
    assert shown["limits.max_import_bytes"] == "256GiB"
    assert shown["limits.max_fast_import_bytes"] == "1TiB"
    assert sources(loaded)["quotas.images"] == "environment"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[limits]\nmax_tag_per_image = 3", "limits.max_tag_per_image"),
        ("[limits]\nmax_tags_per_image = 51", "limits.max_tags_per_image"),
        ("[limits]\nmax_tags_per_image = 0", "limits.max_tags_per_image"),
        ('[limits]\nmax_copy_bytes = "1KiB"', "limits.max_copy_bytes"),
        ("[limits]\nmin_data_disk_gb = 3000", "limits"),
        ("[quotas]\nimages = -2", "quotas.images"),
        ("[quotas]\nstaged_bytes = 5", "quotas.staged_bytes"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        load_config(written(tmp_path, f"{text}\n"))
    assert refused.value.reason == "INVALID_CONFIGURATION"
    assert refused.value.field == key


TLS = '[tls]\ncert_file = "/t/server.pem"\nkey_file = "/t/server.key"\n'


def test_an_address_with_tls_may_be_reached_from_other_machines(tmp_path: Path) -> None:
    text = f'listen = ["0.0.0.0:7443", "[::]:7444"]\n{TLS}client_ca_file = "/t/ca.pem"\n'
    config = load_config(written(tmp_path, f'{text}mutual_addresses = ["[::]:7444"]\n')).config
    assert config.tls.is_used
    assert config.listen == ("0.0.0.0:7443", "[::]:7444")
    assert config.tls.mutual_addresses == ("[::]:7444",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tls]\ncert_file = "/t/server.pem"\n', "go together"),
        ('[tls]\nkey_file = "/t/server.key"\n', "go together"),
        ('[tls]\nclient_ca_file = "/t/ca.pem"\n', "needs cert_file"),
        (f'{TLS}mutual_addresses = ["127.0.0.1:1"]\n', "need client_ca_file"),
        (
            f'listen = ["127.0.0.1:1"]\n{TLS}client_ca_file = "/t/c"\nmutual_addresses = ["127.0.0.1:2"]\n',
            "127.0.0.1:2 of tls.mutual_addresses is not among them",
        ),
        (f'{TLS}cert = "x"\n', "unknown key 'tls.cert'"),
        ('listen = ["0.0.0.0:1"]\n[tls]\ncert_file = ""\n', "nothing is encrypted"),
    ],
)
def test_a_mistake_in_the_section_of_tls_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load_config(written(tmp_path, text))
    assert said in caught.value.message


def test_variables_of_the_clients_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "TOKEN_FILE", "CA_FILE", "CERT", "CERT_KEY"):
        monkeypatch.setenv(f"IMSD_{name}", "x")
    assert load_config().config.listen


OIDC = '[oidc]\nissuer = "https://login.example.org"\n'


def test_a_provider_is_read_from_file_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMSD_OIDC__AUDIENCE", "imsd,other")
    monkeypatch.setenv("IMSD_OIDC__ALGORITHMS", "ES256, Ed25519")
    loaded = load_config(written(tmp_path, OIDC))
    assert loaded.config.oidc.audience == ("imsd", "other")
    assert loaded.config.oidc.algorithms == ("ES256", "Ed25519")
    assert sources(loaded)["oidc.issuer"] == str(tmp_path / "imsd.toml")
    assert sources(loaded)["oidc.audience"] == "environment"


@pytest.mark.parametrize(
    "issuer", ["http://127.0.0.1:9400", "http://localhost:9400", "http://[::1]:1/realms/x"]
)
def test_a_provider_on_this_machine_may_be_plain(tmp_path: Path, issuer: str) -> None:
    text = f'[oidc]\nissuer = "{issuer}"\naudience = ["imsd"]\n'
    assert load_config(written(tmp_path, text)).config.oidc.issuer == issuer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OIDC, "audience is missing"),
        (f"{OIDC}audience = []\n", "audience is missing"),
        ('[oidc]\nissuer = "http://login.example.org"\naudience = ["x"]\n', "not https"),
        ('[oidc]\nissuer = "http://127.0.0.1.example.org"\naudience = ["x"]\n', "not https"),
        ('[oidc]\nissuer = "login.example.org"\naudience = ["x"]\n', "is no issuer"),
        ('[oidc]\nissuer = "https://a:b@login.example.org"\naudience = ["x"]\n', "is no issuer"),
        ('[oidc]\nissuer = "https://login.example.org/?x"\naudience = ["x"]\n', "is no issuer"),
        (f'{OIDC}audience = ["x"]\nalgorithms = ["none"]\n', "oidc.algorithms"),
        (f'{OIDC}audience = ["x"]\nalgorithms = ["RS256", "HS256"]\n', "oidc.algorithms"),
        (f'{OIDC}audience = ["x"]\nalgorithms = []\n', "oidc.algorithms"),
        (f'{OIDC}audience = ["x"]\nleeway_seconds = 301\n', "oidc.leeway_seconds"),
        (f'{OIDC}audience = ["x"]\nuser_claim = ""\n', "oidc.user_claim"),
        (f'{OIDC}audiense = ["x"]\n', "did you mean audience?"),
    ],
)
def test_a_mistake_in_the_section_of_the_provider_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load_config(written(tmp_path, text))
    assert said in f"{caught.value.message} {caught.value.hint}"
