"""Database URLs: what libpq and providers write works, or is named."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dory_orchestrator.core.database_url import INSTEAD, PARAMETERS, KeepAlive, read

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"


def refusal(url: str) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is what is tested
        read(url)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "places", "database"),
    [
        ("postgresql://", (), None),
        ("postgresql:///db", (), "db"),
        ("postgresql://host", (("host", None),), None),
        ("postgres://u:p@host:6432/db", (("host", 6432),), "db"),
        ("postgresql://host:/db", (("host", None),), "db"),
        ("postgresql://u@[2001:db8::1]:5433/db", (("2001:db8::1", 5433),), "db"),
        ("postgresql://[::1]/db", (("::1", None),), "db"),
        ("postgresql://a:1,b:2/db", (("a", 1), ("b", 2)), "db"),
        ("postgresql://a,b/db?port=7", (("a", 7), ("b", 7)), "db"),
        ("postgresql://[::1]:5,[::2]:6/db", (("::1", 5), ("::2", 6)), "db"),
        ("postgresql://%2Frun%2Fpostgresql/db", (("/run/postgresql", None),), "db"),
        ("postgresql:///db?host=/a,/b&port=1,2", (("/a", 1), ("/b", 2)), "db"),
        ("postgresql:///?port=5433", (("", 5433),), None),
        ("postgresql://x/y?host=h&dbname=d", (("h", None),), "d"),
    ],
)
def test_where(url, places, database):
    found = read(url)
    assert found.places == places
    assert found.database == database


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("postgresql://h", None, None),
        ("postgresql://u@h", "u", None),
        ("postgresql://u:@h", "u", ""),
        ("postgresql://u%40t:p%40%3A%2F%3F%23%C3%A4+%25@h", "u@t", "p@:/?#ä+%"),
        ("postgresql://postgres.ref:p@pooler.supabase.com:5432/postgres", "postgres.ref", "p"),
        ("postgresql://h?user=u&password=p+%26", "u", "p+&"),
    ],
)
def test_as_whom(url, user, password):
    found = read(url)
    assert (found.user, found.password) == (user, password)
    assert password is None or password == "" or f"'{password}'" not in repr(found)


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=require&channel_binding=prefer",
        "options=endpoint%3Dep-cool-123&sslmode=require",
        "connect_timeout=10&application_name=portal&sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "sslmode=verify-full&sslrootcert=system",
        "sslrootcert=system",
        "target_session_attrs=read-write&load_balance_hosts=random",
        "gssencmode=disable&client_encoding=UTF8&fallback_application_name=x",
        "keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3",
        "sslmode=require&sslnegotiation=direct&sslsni=1&sslcompression=0",
        "ssl=true",
        "pgbouncer=false",
        "sslmode=",
        "passfile=/run/secrets/pgpass",
    ],
)
def test_works(query):
    read(f"postgresql://u:p@h/db?{query}")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("channel_binding=require", "channel_binding=require is not supported"),
        ("gssencmode=require", "gssencmode=require is not supported"),
        ("target_session_attrs=standby", "target_session_attrs=standby is not supported"),
        ("sslmode=no-verify", "sslmode=no-verify is not supported: expected disable or allow"),
        ("sslsni=0", "sslsni=0 is not supported"),
        ("connect_timeout=soon", "connect_timeout: expected a whole number"),
        ("keepalives_idle=-1", "keepalives_idle: expected a whole number"),
        ("pgbouncer=true", "pgbouncer=true is not supported: a pooler in transaction mode"),
        ("connection_limit=5", "connection_limit is not supported: set database_pool_size"),
        ("schema=public", "schema is not supported: write options=-csearch_path%3DNAME"),
        ("sslaccept=strict", "sslaccept is not supported"),
        ("service=x", "service is not supported"),
        ("krbsrvname=x", "krbsrvname is not supported"),
        ("hostaddr=10.0.0.1", "hostaddr is not supported: write the address as the host"),
        ("supa=base-pooler.x", "supa is not supported"),
        ("sslmode", "expected parameters such as sslmode=require"),
        ("a.b=c", "expected parameters such as sslmode=require"),
        ("sslrootcert=system&sslmode=require", "needs sslmode=verify-full"),
        ("sslnegotiation=direct", "needs sslmode=require or more"),
        ("port=1,2", "2 ports for 1 hosts"),
        ("port=65536", "ports from 1 to 65535"),
    ],
)
def test_is_refused_by_name(query, said):
    assert said in refusal(f"postgresql://u:geheim@h/db?{query}")


def test_what_follows_a_question_mark_in_a_password_is_not_shown():
    assert "geheim" not in refusal("postgresql://u:7?geheim=x@h/db")
    assert "geheim" not in refusal("postgresql://u:7?geheim@h/db")


@pytest.mark.parametrize("url", ["mysql://h/db", "h/db", "postgresql://[::1/db", "postgresql:h"])
def test_what_is_no_url(url):
    assert "expected a URL" in refusal(url)


def test_times():
    found = read(
        "postgresql://h?connect_timeout=3&keepalives=0&keepalives_idle=9&tcp_user_timeout=7"
    )
    assert found.connect_timeout_seconds == 3.0
    assert found.keep_alive == KeepAlive(False, 9, 1, 3, 7)
    # As in libpq, 0 is what is usual.
    assert read("postgresql://h?connect_timeout=0").connect_timeout_seconds is None


def test_the_place_says_no_secret():
    found = read("postgresql://u:geheim@a:1,[::1]/db?password=geheim&sslpassword=geheim")
    assert found.place == "the database db at a:1, [::1]"
    assert "geheim" not in repr(found)


@given(st.text(alphabet="abz_=&?%@:/,[]#+ 0123", max_size=60))
def test_whatever_it_is_it_is_read_or_refused(text):
    with suppress(ValueError):
        read(f"postgresql://{text}")


def test_each_parameter_is_documented():
    """On failure, paste the expected table."""
    rows = [
        f"| `{name}` | {', '.join(f'`{one}`' for one in known.accepted if one) or 'any'} |"
        f" {known.effect} |"
        for name, known in PARAMETERS.items()
    ]
    refused = [f"| `{name}` | {instead} |" for name, instead in INSTEAD.items()]
    text = DOCUMENT.read_text()
    section = text.partition("\n## The database URL\n")[2].partition("\n## ")[0]
    found = [line for line in section.splitlines() if line.startswith("| `")]
    assert found == [*rows, *refused], "\n".join([*rows, "", *refused])
