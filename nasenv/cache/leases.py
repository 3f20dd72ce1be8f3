"""Who is training what: a design that one process trains is not trained by another on the same cache."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from nasenv.cache.database import Connection, Database
from nasenv.errors import InputError

_BEAT_SECONDS = 1.0
_DEAD_SECONDS = 10.0  # without a beat, after which a holder is taken for dead
_LONGEST_LOOK = (
    1.0  # seconds that one look counts for, at most: who looks may have been suspended along with the holder
)

Problem: TypeAlias = tuple[str, str, float]  # space, evaluator, fidelity
Key: TypeAlias = tuple[str, str, float, str]  # and the architecture
KEY_COLUMNS = "space TEXT, evaluator TEXT, fidelity REAL, architecture TEXT"
KEY_NAMES = "space, evaluator, fidelity, architecture"
IS_PROBLEM = "space=? AND evaluator=? AND fidelity=?"
TABLES = (
    f"CREATE TABLE leases ({KEY_COLUMNS}, holder TEXT NOT NULL, PRIMARY KEY ({KEY_NAMES}))",
    "CREATE TABLE holders (holder TEXT PRIMARY KEY, beat INTEGER NOT NULL)",
)
_LOOKS = ("holder FROM leases", "1 FROM measurements")
_GIVE_UP = f"DELETE FROM leases WHERE {IS_PROBLEM} AND architecture=? AND holder=?"
_BEAT = "INSERT INTO holders VALUES (?, ?) ON CONFLICT (holder) DO UPDATE SET beat=excluded.beat"


@dataclass
class _Watched:
    """A holder as another sees it: its beat, when that was looked at last, and how long it has stood still."""

    beat: int
    looked: float
    still_seconds: float = 0.0


class Leases:
    """The leases that one object holds on designs, and those of others as far as they are in its way.

    While leases are held, a thread raises a number in the database each second, the holder's beat. Who wants a lease
    takes it over when that number has stood still for ten seconds of its own time, at once where it can see that the
    process is gone: a lease ends with its holder, however that ended, and no clock of another machine matters. A
    holder that was only suspended then trains in vain.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._holder = f"{_process(os.getpid())}/{uuid.uuid4().hex}"
        self._beats = itertools.count(1)  # never the same twice
        self._entered = False  # whether the database knows the holder
        self._held: set[Key] = set()
        self._watched: dict[str, _Watched] = {}
        self._heart: _Heart | None = None
        wanted = f"FROM {database.values} WHERE true"  # without which SQLite does not see where ON CONFLICT begins
        self._take = f"INSERT INTO leases SELECT ?, ?, ?, value, ? {wanted} ON CONFLICT ({KEY_NAMES}) DO NOTHING"
        holder, measured = (f"(SELECT {of} WHERE {IS_PROBLEM} AND architecture=value)" for of in _LOOKS)
        self._look_at = f"SELECT value, {holder}, {measured} {wanted}"

    def claim(self, problem: Problem, architectures: Sequence[str]) -> set[str]:
        """Return those that nobody else holds and nobody has measured; they are held now."""
        wanted = sorted(architectures)  # who waits for a lease of another's transaction keeps to the same order
        listed = self._database.listed(wanted)

        def enter(connection: Connection) -> dict[str, tuple[str | None, int | None]]:
            connection.execute(self._take, (*problem, self._holder, listed))
            # A statement of its own: what others measure while the former waits for their leases to end is seen here.
            rows = connection.execute(self._look_at, (*problem, *problem, listed))
            return {name: (holder, done) for name, holder, done in rows}

        def take(connection: Connection) -> set[str]:
            connection.execute(_BEAT, (self._holder, next(self._beats)))
            found = enter(connection)
            if any(holder != self._holder for holder, _ in found.values()) and self._bury(connection):
                found = enter(connection)
            mine = {name: done for name, (holder, done) in found.items() if holder == self._holder}
            self.delete(connection, [(*problem, name) for name, done in mine.items() if done])
            return {name for name, done in mine.items() if not done}

        taken = self._database.write(take)
        self._entered = True
        self._held |= {(*problem, name) for name in taken}
        if self._held and self._heart is None and self._database.shared:
            self._heart = _Heart(self, self._database.beside, self._holder, self._beats)
        return taken

    def held(self, keys: Iterable[Key]) -> list[Key]:
        """Return those of the keys that are held here, as far as is known."""
        return [key for key in keys if key in self._held]

    def delete(self, connection: Connection, keys: Iterable[Key]) -> None:
        """Give leases up as a part of a transaction; those of others stay."""
        connection.executemany(_GIVE_UP, [(*key, self._holder) for key in keys])

    def forget(self, keys: Iterable[Key]) -> None:
        """Take note that leases were given up."""
        self._held.difference_update(keys)
        if not self._held:
            self._rest()

    def close(self) -> None:
        """Give all up; where the file does not let it at once, they end with the beat."""
        self._held.clear()
        self._rest()
        if self._entered:
            with contextlib.suppress(InputError):
                self._database.write(self._leave, patience=0.0)

    def _leave(self, connection: Connection) -> None:
        for table in ("leases", "holders"):
            connection.execute(f"DELETE FROM {table} WHERE holder=?", (self._holder,))

    def _rest(self) -> None:
        if self._heart is not None:
            self._heart.stop()
            self._heart = None

    def _bury(self, connection: Connection) -> bool:
        """Take note of the beats of the others; delete those that stood still for too long, with their leases.

        Returns whether there were any.
        """
        now = time.monotonic()
        others = connection.execute("SELECT holder, beat FROM holders WHERE holder<>? ORDER BY holder", (self._holder,))
        watched = {holder: self._look(self._watched.get(holder), beat, now) for holder, beat in others}
        dead = [(holder,) for holder, w in watched.items() if w.still_seconds >= _DEAD_SECONDS or _is_gone(holder)]
        for table in ("leases", "holders") if dead else ():
            connection.executemany(f"DELETE FROM {table} WHERE holder=?", dead)
        self._watched = watched
        return bool(dead)

    @staticmethod
    def _look(before: _Watched | None, beat: int, now: float) -> _Watched:
        if before is None or before.beat != beat:
            return _Watched(beat, now)
        return _Watched(beat, now, before.still_seconds + min(now - before.looked, _LONGEST_LOOK))


def _place() -> str:
    """Return what tells this machine, since its start, and this space of process numbers from others; "" if unknown."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return ""


def _process(number: int) -> str:
    """Return a name that no other process has ever had; "" of a process that is not there, or cannot be told apart."""
    try:
        begun = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
    return f"{_place()}/{number}/{begun}"


def _is_gone(holder: str) -> bool:
    """Return whether the process of a holder has ended; False where that cannot be seen from here."""
    place, _, rest = holder.rpartition("/")[0].rpartition("/")[0].rpartition("/")
    return place != "" and place == _place() and _process(int(rest)) != holder.rpartition("/")[0]


class _Heart:
    """The thread that raises a holder's beat, until it is stopped or its owner is no more."""

    def __init__(
        self, owner: object, connect: Callable[[], Database], holder: str, beats: itertools.count[int]
    ) -> None:
        self._stopped = threading.Event()
        weakref.finalize(owner, self._stopped.set)
        arguments = (connect, holder, beats, self._stopped)
        self._thread = threading.Thread(target=_beat, args=arguments, name="nasenv leases", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()


def _beat(connect: Callable[[], Database], holder: str, beats: itertools.count[int], stopped: threading.Event) -> None:
    database: Database | None = None
    while not stopped.wait(_BEAT_SECONDS):
        try:
            database = database or connect()
            database.write(lambda connection: connection.execute(_BEAT, (holder, next(beats))), patience=0.0)
        except InputError:  # said by whatever is read or written next; without a beat the leases end by themselves
            if database is not None:
                database.close()
                database = None
    if database is not None:
        database.close()
