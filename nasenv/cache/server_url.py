"""The URL of a PostgreSQL server: read, and shown without its password."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from nasenv.errors import InputError

_EXPECTED = (
    "expected postgresql://user:password@host:port/database, in user and password %40 for @, %2F for / and so on"
)


def parsed(url: str) -> dict[str, Any]:
    """Return the parts of a URL; of one that cannot be read, the message holds nothing: it may be the password.

    What would be read in another way than it was meant, as a part of a password stands where a host or port does, is
    refused.
    """
    _, slashes, rest = url.partition("://")
    if slashes and rest.count("@") <= 1 and "@" not in rest.partition("/")[2]:
        with contextlib.suppress(psycopg.ProgrammingError):
            parts: dict[str, Any] = {**conninfo_to_dict(url)}
            if all(port.isdecimal() for port in parts.get("port", "0").split(",") if port):
                return parts
    raise InputError(f"--cache begins as the URL of a PostgreSQL server, but cannot be read as one: {_EXPECTED}")


def without_password(parts: Mapping[str, Any]) -> str:
    """Return the URL of a server's parts, for those who read.

    >>> without_password({"user": "u", "password": "secret", "host": "h", "port": "1", "dbname": "d"})
    'postgresql://u@h:1/d'
    """
    user = f"{quote(parts['user'], '')}@" if "user" in parts else ""
    hosts, ports = parts.get("host", "").split(","), parts.get("port", "").split(",")
    ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    hosts = [f"[{host}]" if ":" in host else quote(host, "") for host in hosts]
    where = ",".join(host + (port and f":{port}") for host, port in zip(hosts, ports, strict=True))
    return f"postgresql://{user}{where}/{quote(parts.get('dbname', ''))}"
