"""Leases on trials: a trial that one process trains is not trained by another on the same cache."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy import Connection

from nasenv.cache.database import HOLDERS, LEASES, Database, is_row, rows
from nasenv.cache.keys import Key, ProblemKey
from nasenv.errors import InputError
from nasenv.trial import Trial

_BEAT_SECONDS = 1.0
_DEAD_SECONDS = 10.0  # without a beat, after which a holder is taken for dead
_LONGEST_LOOK = 1.0  # seconds that one look counts for, at most: who looks may have been suspended with the holder
_HOLDER = sql.bindparam("holder", type_=sql.Text)
_GIVE_UP = sql.delete(LEASES).where(is_row(LEASES), LEASES.c.holder == _HOLDER)
_GIVE_ALL_UP = [sql.delete(table).where(table.c.holder == _HOLDER) for table in (LEASES, HOLDERS)]
_OTHERS = sql.select(HOLDERS).where(HOLDERS.c.holder != _HOLDER).order_by(HOLDERS.c.holder)


@dataclass
class _Watched:
    """Holds what is known of another holder: its heartbeat, when it was read, and for how long it has not changed."""

    beat: int
    looked: float
    still_seconds: float = 0.0


class Leases:
    """Holds the leases of one object on trials, and watches other holders that are in its way.

    While leases are held, a thread raises a number in the database each second, the holder's beat. Who wants a lease
    takes it over when that number has stood still for ten seconds of its own time, at once where it can see that the
    process is gone: a lease ends with its holder, however that ended, and no clock of another machine matters. A
    holder that was only suspended learns from `have_lost` that it is to claim anew.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._holder = f"{_process(os.getpid())}/{uuid.uuid4().hex}"
        self._beat = _Heart(database, self._holder)
        self._entered = False  # whether the database knows the holder
        self._held: set[Key] = set()
        self._watched: dict[str, _Watched] = {}
        self._holders = database.lookup(LEASES.c.holder)
        self._take = database.prepared(database.insert(LEASES).on_conflict_do_nothing())
        self._give_up = database.prepared(_GIVE_UP)
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        weakref.finalize(self, self._stopped.set)

    def claim(self, problem: ProblemKey, trials: Collection[Trial]) -> set[Trial]:
        """Return the trials that nobody else holds and nobody has measured; they are held now."""
        if not trials:
            return set()
        wanted = rows({(problem, trial): self._holder for trial in trials}, "holder")

        def enter(connection: Connection) -> set[Trial]:
            self._take(connection, wanted)
            # Statements of their own: what others do while the former waits for their leases to end is seen here.
            found = self._holders(connection, problem, trials)
            return {trial for trial, holder in found.items() if holder == self._holder}

        def take(connection: Connection) -> set[Trial]:
            self._beat(connection)
            self._beat.has_stood_still = False
            mine = enter(connection)
            if len(mine) < len(trials) and self._bury(connection):
                mine = enter(connection)
            measured = self._database.find(connection, problem, mine).keys()
            self.delete(connection, [(problem, trial) for trial in measured])
            return mine - measured

        taken = self._database.write(take)
        self._entered = True
        self._held |= {(problem, trial) for trial in taken}
        if self._held and self._database.shared and self._thread is None:
            self._stopped.clear()
            beating = (self._database, self._beat, self._stopped)  # and not this object, which the thread may outlive
            self._thread = threading.Thread(target=_keep_beating, args=beating, name="nasenv leases", daemon=True)
            self._thread.start()
        return taken

    def have_lost(self, problem: ProblemKey, trials: Collection[Trial]) -> bool:
        """Return whether others have taken over some of these trials, as they do while this process is suspended."""
        if not trials or not self._database.shared or not self._beat.stands_still():
            return False
        found = self._database.read(lambda connection: self._holders(connection, problem, trials))
        self._beat.has_stood_still = any(found.get(trial) != self._holder for trial in trials)
        return self._beat.has_stood_still

    def held(self, keys: Iterable[Key]) -> list[Key]:
        """Return those of the keys that are held here, as far as is known."""
        return [key for key in keys if key in self._held]

    def delete(self, connection: Connection, keys: Collection[Key]) -> None:
        """Delete leases within a transaction; those of others are kept."""
        if keys:
            self._give_up(connection, rows(dict.fromkeys(keys, self._holder), "holder"))

    def forget(self, keys: Iterable[Key]) -> None:
        """Note that leases were deleted."""
        self._held.difference_update(keys)
        if not self._held:
            self._rest()

    def close(self) -> None:
        """Delete all leases; if the database is not available now, they expire with the heartbeat."""
        self._held.clear()
        self._rest()
        if self._entered:
            with contextlib.suppress(InputError):
                self._database.write(lambda connection: _give_all_up(connection, [self._holder]), patience=0.0)

    def _rest(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _bury(self, connection: Connection) -> bool:
        """Read the others' heartbeats, delete the leases of dead holders, and return whether there were any."""
        now = time.monotonic()
        others = connection.execute(_OTHERS, {"holder": self._holder})
        self._watched = {holder: self._look(holder, beat, now) for holder, beat in others}
        looked = self._watched.items()
        dead = [holder for holder, seen in looked if seen.still_seconds >= _DEAD_SECONDS or _is_gone(holder)]
        _give_all_up(connection, dead)
        return bool(dead)

    def _look(self, holder: str, beat: int, now: float) -> _Watched:
        before = self._watched.get(holder)
        if before is None or before.beat != beat:
            return _Watched(beat, now)
        return _Watched(beat, now, before.still_seconds + min(now - before.looked, _LONGEST_LOOK))


def _give_all_up(connection: Connection, holders: Collection[str]) -> None:
    for statement in _GIVE_ALL_UP if holders else ():
        connection.execute(statement, [{"holder": holder} for holder in holders])


def _place() -> str:
    """Return an id of this machine since its start and of its process namespace; "" if it is unknown."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return ""


def _process(number: int) -> str:
    """Return an id that no other process ever had; "" if the process is gone or cannot be identified."""
    try:
        begun = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
    return f"{_place()}/{number}/{begun}"


def _is_gone(holder: str) -> bool:
    """Return whether the process of a holder has ended; False if that cannot be seen from here."""
    process = holder.rpartition("/")[0]
    place, _, number = process.rpartition("/")[0].rpartition("/")
    return place != "" and place == _place() and _process(int(number)) != process


class _Heart:
    """Raises the heartbeat of a holder within a transaction, and notices when it has not done so for long.

    Attributes:
        has_stood_still: whether there was once no beat for so long that others may have taken the holder for dead.
    """

    def __init__(self, database: Database, holder: str) -> None:
        self._holder, self._beats = holder, itertools.count(1)  # never the same twice
        self.has_stood_still, self._last = False, _seconds()
        insert = database.insert(HOLDERS)
        update = insert.on_conflict_do_update(index_elements=["holder"], set_={"beat": insert.excluded.beat})
        self._raise = database.prepared(update)

    def __call__(self, connection: Connection) -> None:
        self._raise(connection, [{"holder": self._holder, "beat": next(self._beats)}])
        self.has_stood_still, self._last = self.stands_still(), _seconds()

    def stands_still(self) -> bool:
        return self.has_stood_still or _seconds() - self._last >= _DEAD_SECONDS


def _seconds() -> float:
    """Return the seconds of a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()


def _keep_beating(database: Database, beat: Callable[[Connection], object], stopped: threading.Event) -> None:
    while not stopped.wait(_BEAT_SECONDS):
        with contextlib.suppress(InputError):  # said by whatever is read or written next
            database.write(beat, patience=0.0)
