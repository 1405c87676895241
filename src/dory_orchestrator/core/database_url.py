"""Database URLs as libpq and providers write them: each parameter works, or is named as refused.

Whatever stands in a URL is either done, or done without (it asks for nothing that we do not do
anyhow), or an error that says what to write instead: nothing is left out in silence, and nothing
reaches the server as a setting that it does not know.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import unquote

_URL = re.compile(r"postgres(?:ql)?://([^/?#]*)([^?#]*)(?:\?([^#]*))?")
_MALFORMED = "expected a URL such as postgresql://user:password@host:5432/database"
_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class Parameter:
    """What becomes of one parameter. `accepted`: its values, all where there are none.

    `instead` is what to write where it, or its value, is not supported.
    """

    effect: str
    accepted: tuple[str, ...] = ()
    instead: str = ""


_OFF = ("", "0", "false", "off", "no")
_TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {
        # Where, and as whom.
        "host": Parameter("the host, a folder of a socket, or several of them"),
        "port": Parameter("the port, or one for each host"),
        "dbname": Parameter("the database"),
        "user": Parameter("the role"),
        "password": Parameter("its password"),
        "passfile": Parameter("the file of passwords instead of `~/.pgpass`"),
        "target_session_attrs": Parameter(
            "always `read-write`: the first server that takes writes is used",
            ("any", "read-write", "primary"),
            "a server that takes writes is needed: leave it out",
        ),
        "load_balance_hosts": Parameter(
            "nothing: of several hosts the one that takes writes is used", ("disable", "random")
        ),
        # How long.
        "connect_timeout": Parameter(
            "seconds for one attempt, where that is less than our own bound"
        ),
        "keepalives": Parameter("`0` turns TCP keepalives off", ("0", "1")),
        "keepalives_idle": Parameter("seconds of silence until the first keepalive (3)"),
        "keepalives_interval": Parameter("seconds between two keepalives (1)"),
        "keepalives_count": Parameter("keepalives that may stay unanswered (3)"),
        "tcp_user_timeout": Parameter(
            "milliseconds that what was sent may stay unacknowledged (5000)"
        ),
        # How safe.
        "sslmode": Parameter("as in libpq", _TLS_MODES),
        "ssl": Parameter("as `sslmode=require`", ("true",), "write sslmode"),
        "sslrootcert": Parameter("the file of authorities; `system`: those of this machine"),
        "sslcert": Parameter("the file of the client's certificate"),
        "sslkey": Parameter("the file of its key"),
        "sslpassword": Parameter("the password of its key"),
        "sslcrl": Parameter("the file of revoked certificates"),
        "ssl_min_protocol_version": Parameter(
            "the oldest TLS (`TLSv1.2`)", ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
        ),
        "ssl_max_protocol_version": Parameter(
            "the newest TLS", ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
        ),
        "sslnegotiation": Parameter("as in libpq", ("postgres", "direct")),
        "sslsni": Parameter("nothing: the host is always told", ("1",)),
        "sslcompression": Parameter("nothing: it is never used", ("0",)),
        "channel_binding": Parameter(
            "nothing: there is none",
            ("disable", "prefer"),
            "the driver knows no channel binding; sslmode=verify-full with sslrootcert=system, or "
            "the provider's certificate, keeps others from standing between",
        ),
        "gssencmode": Parameter("nothing: it is never used", ("disable", "prefer")),
        # What the server is told.
        "application_name": Parameter("stands in place of `dory-orchestrator` in our names"),
        "fallback_application_name": Parameter("as `application_name`, where that is not given"),
        "options": Parameter("options of the session, such as `-csearch_path=platform`"),
        "client_encoding": Parameter("nothing: it is UTF-8", ("auto", "utf8", "utf-8")),
        "replication": Parameter("nothing: it is never used", _OFF),
        # What providers and other clients add.
        "pgbouncer": Parameter(
            "nothing",
            ("false",),
            "a pooler in transaction mode: give the URL of direct connections",
        ),
    }
)
"""Every parameter that is known, and what it does."""

INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "hostaddr": "write the address as the host",
        "service": "write into the URL what it names",
        "servicefile": "write into the URL what it names",
        "sslcrldir": "write sslcrl",
        "sslcertmode": "a certificate is sent where sslcert names one",
        "requirepeer": "use a folder for the socket that only the server's user can write to",
        "require_auth": "leave it out, and use sslmode=verify-full",
        "krbsrvname": "Kerberos is not supported: use a password or a certificate",
        "gsslib": "Kerberos is not supported: use a password or a certificate",
        "gssdelegation": "Kerberos is not supported: use a password or a certificate",
        "schema": "write options=-csearch_path%3DNAME",
        "currentSchema": "write options=-csearch_path%3DNAME",
        "search_path": "write options=-csearch_path%3DNAME",
        "statement_timeout": "leave it out: every statement is bounded",
        "connection_limit": "set database_pool_size",
        "pool_timeout": "set database_timeout",
        "socket_timeout": "set database_timeout",
        "statement_cache_size": "leave it out",
        "prepareThreshold": "leave it out",
        "sslaccept": "write sslmode: strict is verify-full, accept_invalid_certs is require",
        "sslidentity": "write sslcert and sslkey",
        "database": "write dbname",
    }
)
"""Of parameters that are refused, those of which we know what to write instead."""

_SECONDS = ("connect_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count")
_NUMBERS = (*_SECONDS, "tcp_user_timeout")
_OF_TLS = (
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
)


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """When a connection that carries nothing any more is given up by the system itself:
    after `idle_seconds` + `count` * `interval_seconds`, or once what was sent stays
    unacknowledged for `user_timeout_milliseconds`.
    """

    enabled: bool = True
    idle_seconds: int = 3
    interval_seconds: int = 1
    count: int = 3
    user_timeout_milliseconds: int = 5_000


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A URL in its parts. What it does not say is None, or empty: also the host of a place."""

    places: tuple[tuple[str, int | None], ...] = ()
    database: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    passfile: str | None = None
    tls: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: str | None = None
    application_name: str | None = None
    connect_timeout_seconds: float | None = None
    keep_alive: KeepAlive = KeepAlive()

    @property
    def place(self) -> str:
        """Database and hosts, for messages: no secret is in it."""
        hosts = ", ".join(
            (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
            for host, port in self.places
        )
        return f"the database {self.database or '(default)'} at {hosts or '(default)'}"


def read(url: str) -> DatabaseUrl:
    """The parts of a URL. Raises ValueError, with a text that quotes no secret."""
    parts = _URL.fullmatch(url)
    if parts is None:
        raise ValueError(_MALFORMED)
    authority, path, query = parts.groups()
    if "@" in path:
        raise ValueError(f"{_MALFORMED}, with / ? # @ in the password written as %2F %3F %23 %40")
    given = _parameters(query or "")
    login, _, hosts = authority.rpartition("@")
    user, colon, password = login.partition(":")
    return DatabaseUrl(
        places=_places(given.get("host"), given.get("port"), hosts),
        database=given.get("dbname") or unquote(path.removeprefix("/")) or None,
        user=given.get("user") or unquote(user) or None,
        password=given.get("password") or (unquote(password) if colon else None),
        passfile=given.get("passfile"),
        tls=_tls(given),
        options=given.get("options"),
        application_name=given.get("application_name") or given.get("fallback_application_name"),
        connect_timeout_seconds=float(given.get("connect_timeout") or 0) or None,
        keep_alive=_keep_alive(given),
    )


def _parameters(query: str) -> dict[str, str]:
    """What a query says; as in libpq the last of a name counts, and `+` is no blank."""
    given: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        name, value = unquote(name), unquote(value)
        if not equals or not name.replace("_", "").isalnum():
            # It may be half of a password that holds a question mark.
            raise ValueError("expected parameters such as sslmode=require after the ?")
        problem = _problem(name, value)
        if problem:
            # What follows a ? in a password that is not quoted looks like a parameter.
            raise ValueError(
                problem
                if "@" not in query
                else "the database URL has a parameter "
                "that is not supported, or a ? in its password (write it as %3F)"
            )
        if value:
            given[name] = value
    return given


def _problem(name: str, value: str) -> str:
    """Why a parameter is refused; empty if it is not."""
    known = PARAMETERS.get(name)
    if known is None:
        instead = INSTEAD.get(name)
        return f"database URL parameter {name} is not supported" + (
            f": {instead}" if instead else ""
        )
    if not value:
        return ""
    if known.accepted and value.lower() not in {one.lower() for one in known.accepted}:
        hint = known.instead or f"expected {' or '.join(one for one in known.accepted if one)}"
        # Not for a name without a choice: its value may be a secret. Nor a long one.
        return f"database URL parameter {name}={value[:40]} is not supported: {hint}"
    if name in _NUMBERS and not (value.isascii() and value.isdigit() and len(value) <= 9):
        return f"database URL parameter {name}: expected a whole number"
    return ""


def _keep_alive(given: Mapping[str, str]) -> KeepAlive:
    """As libpq reads it: 0 is the default, of the system there and ours here."""

    def number(name: str, default: int) -> int:
        return int(given.get(name, "0")) or default

    ours = KeepAlive()
    return KeepAlive(
        enabled=given.get("keepalives") != "0",
        idle_seconds=number("keepalives_idle", ours.idle_seconds),
        interval_seconds=number("keepalives_interval", ours.interval_seconds),
        count=number("keepalives_count", ours.count),
        user_timeout_milliseconds=number("tcp_user_timeout", ours.user_timeout_milliseconds),
    )


def _tls(given: Mapping[str, str]) -> dict[str, str]:
    tls = {name: given[name] for name in _OF_TLS if name in given}
    if "sslmode" in tls:
        tls["sslmode"] = tls["sslmode"].lower()
    elif "ssl" in given:
        tls["sslmode"] = "require"
    if tls.get("sslrootcert") == "system":
        # As in libpq: with authorities that anybody can have a certificate of, less is nothing.
        if tls.setdefault("sslmode", "verify-full") != "verify-full":
            raise ValueError("database URL parameter sslrootcert=system needs sslmode=verify-full")
        if "sslcrl" in tls:
            raise ValueError(
                "database URL parameter sslcrl is not supported with sslrootcert=system"
            )
    if tls.get("sslnegotiation") == "direct" and tls.get("sslmode") not in _TLS_MODES[3:]:
        raise ValueError(
            "database URL parameter sslnegotiation=direct needs sslmode=require or more"
        )
    return tls


def _places(
    hosts: str | None, ports: str | None, authority: str
) -> tuple[tuple[str, int | None], ...]:
    """Each host with its port. What the query says stands above what the authority says."""
    split = [_host(one) for one in authority.split(",")] if authority else []
    names = hosts.split(",") if hosts else [name for name, _ in split] or [""]
    of_hosts = [""] if hosts else [port for _, port in split] or [""]
    numbers = ports.split(",") if ports else of_hosts
    if len(numbers) == 1:
        numbers = numbers * len(names)
    if len(numbers) != len(names):
        raise ValueError(f"database URL: {len(numbers)} ports for {len(names)} hosts")
    if len(names) > 1 and not all(names):
        raise ValueError("database URL: a host is empty")
    places = zip(names, numbers, strict=True)
    return tuple((name, _port(number)) for name, number in places if name or number)


def _host(text: str) -> tuple[str, str]:
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        if not bracket:
            raise ValueError(_MALFORMED)
        return unquote(address), port.removeprefix(":")
    name, _, port = text.partition(":")
    return unquote(name), port


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _PORT_MAX):
        raise ValueError(f"database URL: expected ports from 1 to {_PORT_MAX}")
    return int(text)
