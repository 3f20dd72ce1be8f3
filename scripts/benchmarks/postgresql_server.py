"""A private PostgreSQL server on the loopback interface, from Debian's packages, for tests and benchmarks."""

import contextlib
import ctypes
import os
import pwd
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

_START_SECONDS = 60.0
_SET_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


class Server:
    """Starts and kills a server whose data are in one folder.

    Args:
        folder: for its data; the user that runs it must be able to enter it.
        settings: such as fsync="off", which is as safe as long as only the server is killed.
    """

    password = "p@ss/w:rd"

    def __init__(self, folder: Path, **settings: str) -> None:
        self._bin, self._folder = programs(), folder
        self._settings = [f"--{name}={value}" for name, value in settings.items()]
        self._as = _owner() if os.geteuid() == 0 else {}
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        secret = folder / "password"
        secret.write_text(self.password)
        for path in (folder, secret) if self._as else ():
            os.chown(path, self._as["user"], self._as["group"])
        options = ["--auth=scram-sha-256", "--username=nasenv", "--no-locale", "--encoding=UTF8", "--no-sync"]
        made = [self._bin / "initdb", f"--pgdata={folder / 'data'}", f"--pwfile={secret}", *options]
        subprocess.run(made, check=True, capture_output=True, cwd=folder, **self._as)
        self.start()

    @property
    def url(self) -> str:
        """Return its URL, with the password."""
        return f"postgresql://nasenv:p%40ss%2Fw%3Ard@127.0.0.1:{self.port}/postgres"

    @property
    def cpu_seconds(self) -> float:
        """Return the CPU seconds that its processes have used since the start, those of past clients included."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        where = [f"--port={self.port}", "--listen_addresses=127.0.0.1", f"--unix_socket_directories={self._folder}"]
        command = [self._bin / "postgres", "-D", self._folder / "data", *where, *self._settings]
        deadline = time.monotonic() + _START_SECONDS
        with open(self._folder / "log", "ab") as log:
            while not self._answers():  # after a kill, it cannot start until the last of its processes is gone
                if self._process is None or self._process.poll() is not None:
                    self._process = subprocess.Popen(
                        command, stdout=log, stderr=log, cwd=self._folder, preexec_fn=_die_with_parent, **self._as
                    )
                if time.monotonic() > deadline:
                    raise TimeoutError(f"PostgreSQL does not start: {(self._folder / 'log').read_text()[-1000:]}")
                time.sleep(0.05)

    def kill(self) -> None:
        """Kill the server at once, as a fault would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server and its processes at once, without syncing its data."""
        self._end(signal.SIGQUIT)

    def execute(self, sql: str) -> None:
        """Execute a statement."""
        execute(self.url, sql)

    def empty(self) -> None:
        """Delete the tables of a cache."""
        self.execute("DROP SCHEMA IF EXISTS nasenv CASCADE")

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def execute(url: str, sql: str) -> None:
    """Execute a statement on a server."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


@contextlib.contextmanager
def server(**settings: str) -> Iterator[Server]:
    """Yield a server, and delete it at the end; raise FileNotFoundError if PostgreSQL is not installed."""
    programs()
    with tempfile.TemporaryDirectory(prefix="nasenv-postgresql-") as folder:
        made = Server(Path(folder), **settings)
        try:
            yield made
        finally:
            made.stop()


def programs() -> Path:
    """Return the folder of the newest server's programs; raise FileNotFoundError if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not found:
        raise FileNotFoundError("there is no PostgreSQL server here: apt-get install postgresql")
    return found[-1].parent


def _owner() -> dict[str, Any]:
    """Return the user who runs the server if this process is root, which PostgreSQL refuses."""
    names = {user.pw_name for user in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGQUIT)
