"""A wrong setting stops start-up with one line that names it."""

import pytest

from opsplane import config
from opsplane.config import Environment
from opsplane.errors import ConfigurationError

PRODUCTION = {
    "OPSPLANE_ENV": "production",
    "OPSPLANE_DATABASE_URL": "postgresql://db/x",
    "OPSPLANE_REDIS_URL": "redis://r",
    "OPSPLANE_SECRET_KEY": "s" * 32,
    "OPSPLANE_BASE_URL": "https://ops.example",
}


def load(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> config.Settings:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return config.load(values)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"OPSPLANE_DATABASE_URL": "mysql://x"}, "OPSPLANE_DATABASE_URL: must start with postgresql://"),
        ({"OPSPLANE_DATABASE_URL": "postgresql://h:abc/db"}, "OPSPLANE_DATABASE_URL: is not an address"),
        ({"OPSPLANE_REDIS_URL": "redis://h:abc"}, "OPSPLANE_REDIS_URL: is not an address"),
        ({"OPSPLANE_REDIS_URL": "http://x"}, "OPSPLANE_REDIS_URL: must start with redis://"),
        ({"OPSPLANE_POOL_SIZE": "0"}, "OPSPLANE_POOL_SIZE"),
        ({"OPSPLANE_POOL_SIZE": "4", "OPSPLANE_WORKER_CONCURRENCY": "4"}, "OPSPLANE_POOL_SIZE must be larger"),
        ({"OPSPLANE_LOG_LEVEL": "LOUD"}, "OPSPLANE_LOG_LEVEL: must be DEBUG"),
        ({"OPSPLANE_BASE_URL": "ops.example"}, "OPSPLANE_BASE_URL: must start with http://"),
        ({"OPSPLANE_ENV": "staging"}, "OPSPLANE_ENV"),
        ({"OPSPLANE_TRUSTED_PROXIES": "10.0.0.1/8"}, "OPSPLANE_TRUSTED_PROXIES: 10.0.0.1/8 has host bits set"),
        ({"OPSPLANE_TRUSTED_PROXIES": "10.0.0.1, proxy"}, "OPSPLANE_TRUSTED_PROXIES: 'proxy' does not appear to be"),
        ({"OPSPLANE_TRUSTED_PROXIES": "10.0.0.1 10.0.0.2"}, "OPSPLANE_TRUSTED_PROXIES"),
        ({"OPSPLANE_ALLOW_ADMIN_MAINTENANCE_ACTIONS": "perhaps"}, "OPSPLANE_ALLOW_ADMIN_MAINTENANCE_ACTIONS"),
        ({"OPSPLANE_CHUNK_MIN_ROWS": "600", "OPSPLANE_CHUNK_MAX_ROWS": "500"}, "OPSPLANE_CHUNK_MIN_ROWS is larger"),
        ({"OPSPLANE_DATABSE_URL": "x"}, "did you mean OPSPLANE_DATABASE_URL?"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], names: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(monkeypatch, values)
    assert names in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ({"OPSPLANE_DATABASE_URL": None}, "embedded"),
        ({"OPSPLANE_REDIS_URL": None}, "embedded"),
        ({"OPSPLANE_SECRET_KEY": None}, "OPSPLANE_SECRET_KEY"),
        ({"OPSPLANE_SECRET_KEY": "short"}, "OPSPLANE_SECRET_KEY"),
        ({"OPSPLANE_BASE_URL": "http://ops.example"}, "https://"),
        ({"OPSPLANE_TRUSTED_PROXIES": "*"}, "OPSPLANE_TRUSTED_PROXIES"),
        ({"OPSPLANE_TRUSTED_PROXIES": "10.0.0.0/8, *"}, "OPSPLANE_TRUSTED_PROXIES"),
        ({"OPSPLANE_TRUSTED_PROXIES": "0.0.0.0/0"}, "OPSPLANE_TRUSTED_PROXIES"),
        ({"OPSPLANE_TRUSTED_PROXIES": "10.0.0.0/8,::/0"}, "OPSPLANE_TRUSTED_PROXIES"),
        ({"OPSPLANE_ALLOW_ADMIN_MAINTENANCE_ACTIONS": "true"}, "OPSPLANE_ALLOW_ADMIN_MAINTENANCE_ACTIONS"),
    ],
)
def test_production_refuses_what_is_only_convenient(
    monkeypatch: pytest.MonkeyPatch, lacks: dict[str, str | None], says: str
) -> None:
    assert load(monkeypatch, PRODUCTION).env is Environment.PRODUCTION
    for name, value in lacks.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=says):
        config.load({})


def test_what_kubernetes_sets_for_a_service_of_this_name_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    load(monkeypatch, {"OPSPLANE_PORT": "tcp://10.0.0.1:80", "OPSPLANE_SERVICE_HOST": "10.0.0.1"})


def test_secrets_do_not_show() -> None:
    secrets = {"secret_key": "hunter2", "database_url": "postgresql://u:hunter2@h/d", "redis_url": "redis://:hunter2@h"}
    assert "hunter2" not in repr(config.Settings.model_validate(secrets))


def test_what_managed_databases_hand_out_is_understood() -> None:
    settings = config.Settings(database_url="postgres://u:p@h/d?sslmode=require")
    assert settings.sqlalchemy_url == "postgresql+asyncpg://u:p@h/d?ssl=require"


def test_production_takes_a_list_of_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, PRODUCTION | {"OPSPLANE_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.7,,2001:db8::/32"})
    assert settings.proxies == ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]
    assert not settings.allow_admin_maintenance_actions


def test_development_may_believe_every_proxy_and_hint_at_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"OPSPLANE_TRUSTED_PROXIES": "*", "OPSPLANE_ALLOW_ADMIN_MAINTENANCE_ACTIONS": "true"}
    settings = load(monkeypatch, values)
    assert (settings.proxies, settings.allow_admin_maintenance_actions) == (["*"], True)
