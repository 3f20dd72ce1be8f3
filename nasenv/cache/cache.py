"""A cache of measurements in a database, shared by searches, processes and machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from nasenv.cache.keys import Key, ProblemKey, ServerUnavailable
from nasenv.errors import InputError
from nasenv.files import parse_json
from nasenv.trial import Measurement, Trial

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from nasenv.cache.database import Database

_LAST_SECONDS = 10.0  # for which a server is waited for at the end
_URLS = ("postgresql:/", "postgres:/")
_ENTER = "those of a run directory enter it when the same command is started again"
_log = logging.getLogger("nasenv")


class Cache:
    """Stores measurements in a database: a SQLite file, or a PostgreSQL server.

    The key is a problem, which is the fingerprints of a space and of an evaluator, and a trial, so that nothing is ever
    taken for a measurement of something else. Several processes may use one file, and several machines one server.
    What would perhaps end otherwise if tried again (a timeout, out of memory) is not kept. An object is to be used in
    the thread that made it.

    So that no two processes train the same trial, claim what is missing, and wait for what others are training:

        while missing:
            mine = cache.claim(problem, missing)
            ...  # train mine; add each when it is done, or release it
            found |= cache.find(problem, missing)
            missing = [trial for trial in missing if trial not in found]
            if missing and not mine:
                time.sleep(0.2)

    A claim ends with `add`, `release` or `close`, and some ten seconds after its process died or was suspended, which
    `has_lost` tells it when it goes on.

    A server that goes away is tried again for a minute. After that nothing is found, every claim is granted, and what
    is added waits in memory until the server answers again, for which it is tried twice a minute; the logger ``nasenv``
    says so.

    Args:
        path: the file, made with its folders where missing; ":memory:" for one that lives as long as this object; or
            postgresql://user:password@host:port/database, where tables are made in a schema ``nasenv``; the password
            may come from PGPASSWORD or ~/.pgpass.
        waits: a server that does not answer is waited for, as later; its tables must have been made before.

    Attributes:
        path: the file, or the URL without its password.

    Raises:
        InputError: a database that is not such a one, is from another version, cannot be written, or whose server does
            not answer. This and all else waits while other searches write, and for a minute where another program
            holds the file.

    >>> with Cache(":memory:") as cache:
    ...     problem, trial = ProblemKey("fingerprint of a space", "of an evaluator"), Trial((0, 1))
    ...     cache.add(problem, {trial: Measurement(0.9)})
    ...     cache.find(problem, [trial])[trial].score
    0.9
    """

    def __init__(self, path: str | Path = "runs/cache.db", waits: bool = False) -> None:
        from nasenv.cache.leases import Leases  # SQLAlchemy takes a quarter of a second, which workers do not need

        self._database = _database(path)
        self.path = self._database.name
        self._leases = Leases(self._database)
        self._late: dict[Key, str | None] = {}  # what a server that is away is still to be told; None: not measured
        try:
            self._database.prepare(patience=None if waits else 0.0)
        except InputError as error:
            if waits and isinstance(error, ServerUnavailable):
                return
            self._database.close()
            raise

    def find(self, problem: ProblemKey, trials: Iterable[Trial]) -> dict[Trial, Measurement]:
        """Return the known measurements of these trials.

        Raises:
            InputError: the file is damaged, or gone.
        """
        asked = list(trials)
        self._catch_up()
        try:
            found = self._database.read(lambda connection: self._database.find(connection, problem, asked))
        except ServerUnavailable:
            found = {trial: self._late.get((problem, trial)) for trial in asked}
        return {trial: self._measurement((problem, trial), text) for trial, text in found.items() if text is not None}

    def _measurement(self, key: Key, text: str) -> Measurement:
        try:
            return Measurement.from_json(parse_json(text))
        except (ValueError, TypeError, KeyError) as error:
            raise self._database.damaged(key, error) from error

    def claim(self, problem: ProblemKey, trials: Iterable[Trial]) -> set[Trial]:
        """Return the trials that nobody has measured or is measuring; they are claimed by this object now.

        Raises:
            InputError: the file cannot be written any more.
        """
        wanted = set(trials)
        self._catch_up()
        try:
            return self._leases.claim(problem, wanted)
        except ServerUnavailable:
            return {trial for trial in wanted if self._late.get((problem, trial)) is None}

    def has_lost(self, problem: ProblemKey, trials: Collection[Trial]) -> bool:
        """Return whether others have taken over claims on these trials, as they do while this process is suspended.

        It costs nothing while this process is awake, and a look into the database where it was not.

        Raises:
            InputError: the file is damaged, or gone.
        """
        try:
            return self._leases.have_lost(problem, trials)
        except ServerUnavailable:
            return False

    def release(self, problem: ProblemKey, trials: Iterable[Trial]) -> None:
        """Release claims without a measurement; trials that are not claimed are ignored.

        Raises:
            InputError: the file cannot be written any more.
        """
        self._store({(problem, trial): None for trial in trials})

    def add(self, problem: ProblemKey, measurements: Mapping[Trial, Measurement]) -> None:
        """Store measurements in one transaction and release the claims on them; the first of a trial is kept.

        What was claimed cost a training and is on the disk on return. The rest (looked up in a table, say) survives
        the end of the process at any moment, but the last of it perhaps not a power cut.

        Raises:
            InputError: the file cannot be written any more (a full disk, say).
        """
        texts = {trial: json.dumps(m.to_json()) if m.repeatable else None for trial, m in measurements.items()}
        self._store({(problem, trial): text for trial, text in texts.items()})

    def _store(self, told: dict[Key, str | None], patience: float | None = None) -> None:
        told = told | {key: text for key, text in self._late.items() if text is not None or key not in told}
        texts = {key: text for key, text in told.items() if text is not None}
        held = self._leases.held(told)

        def store(connection: Connection) -> None:
            self._database.keep(connection, texts)
            self._leases.delete(connection, held)

        if texts or held:
            try:
                self._database.write(store, durable=bool(texts and held), patience=patience)
            except ServerUnavailable:
                self._late = told
                return
        self._leases.forget(held)
        self._late = {}

    def _catch_up(self) -> None:
        if self._late:
            self._store({})

    def __len__(self) -> int:
        return self._database.read(self._database.count)

    def close(self) -> None:
        """Release all claims and close the database; pending measurements are sent to a server for ten seconds more."""
        if self._late:
            self._store({}, _LAST_SECONDS)
        if lost := sum(text is not None for text in self._late.values()):
            _log.warning("cache %s does not answer; %d measurements did not reach it: %s", self.path, lost, _ENTER)
        self._leases.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _database(path: str | Path) -> Database:
    """Return the database at a path or URL; error messages never contain a URL's password."""
    if not str(path).startswith(_URLS):
        from nasenv.cache.database import SQLite

        return SQLite(path)
    try:
        from nasenv.cache.postgresql import PostgreSQL  # the driver is an extra
    except ImportError as error:
        raise InputError(
            f"a cache on a PostgreSQL server needs psycopg ({error}): pip install 'psycopg[binary]', or give a file"
            " with --cache"
        ) from error
    return PostgreSQL(str(path))
