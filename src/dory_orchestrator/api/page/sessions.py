"""Who has logged in: a cookie that proves, without any memory of ours, that its holder knew the
operators' token. So it is good at every orchestrator that has the same token."""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

COOKIE = "dory_session"
SESSION_SECONDS = 12 * 3600
FAILURES_MAX = 5
FAILURE_SECONDS = 60.0
_ADDRESSES_MAX = 1024
PENALTY_SECONDS = 1.0
_PENALTIES_MAX = 8
_CLOCKS_DIFFER_SECONDS = 300


class Sessions:
    """Makes and checks sessions. `token` is None when everyone may decide."""

    def __init__(self, token: str | None, clock: Callable[[], float] = time.time) -> None:
        self._token = None if token is None else token.encode()
        self._key = b"" if token is None else _mac(token.encode(), "session of the page")
        self._clock = clock

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return self._token is None

    def knows(self, given: str) -> bool:
        """Is it the token? Takes the same time for each wrong one."""
        return self._token is not None and hmac.compare_digest(
            given.encode(errors="replace"), self._token
        )

    def begin(self) -> str:
        """A new session: until when it is good, something random, and the proof."""
        said = f"{int(self._clock()) + SESSION_SECONDS}.{secrets.token_hex(8)}"
        return f"{said}.{_mac(self._key, said).hex()}"

    def is_good(self, session: str | None) -> bool:
        """Was it made by us, or by another with the same token, and is it not over?"""
        if self._token is None or session is None or not session.isascii():
            return False
        said, _, proof = session.rpartition(".")
        if not hmac.compare_digest(proof, _mac(self._key, said).hex()):
            return False
        left_seconds = int(said.partition(".")[0]) - self._clock()
        return 0 < left_seconds <= SESSION_SECONDS + _CLOCKS_DIFFER_SECONDS

    def form_token(self, session: str | None) -> str:
        """What the forms of a session bear, so that no other page can have made them."""
        return "" if session is None else _mac(self._key, f"form {session}").hex()

    def made_form(self, session: str | None, given: str) -> bool:
        """Whether a form with this token was made for this session."""
        wanted = self.form_token(session)
        return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class TooManyFailures(Exception):
    """Somebody guesses. `retry_seconds` is when to come again."""

    def __init__(self, retry_seconds: float) -> None:
        super().__init__(f"too many wrong tokens: try again in {retry_seconds:.0f} s")
        self.retry_seconds = retry_seconds


class Attempts:
    """Slows down who guesses: a wrong token is answered a second late, and after five within a
    minute the address is not listened to. Behind a proxy all have one address."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        penalty_seconds: float = PENALTY_SECONDS,
    ) -> None:
        self._clock = clock
        self._penalty_seconds = penalty_seconds
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._penalties = 0

    @asynccontextmanager
    async def one(self, address: str) -> AsyncIterator[Callable[[], None]]:
        """An attempt; call what is yielded if the token is wrong. Raises TooManyFailures."""
        now = self._clock()
        recent = [at for at in self._failures.get(address, ()) if now - at < FAILURE_SECONDS]
        if len(recent) >= FAILURES_MAX or self._penalties >= _PENALTIES_MAX:
            oldest = recent[0] if recent else now
            raise TooManyFailures(max(FAILURE_SECONDS - (now - oldest), 1.0))
        failed: list[float] = []
        yield lambda: failed.append(now)
        if failed:
            self._failures[address] = [*recent, now]
            self._failures.move_to_end(address)
            while len(self._failures) > _ADDRESSES_MAX:
                self._failures.popitem(last=False)
            await self._wait()
        else:
            self._failures.pop(address, None)

    async def _wait(self) -> None:
        self._penalties += 1
        try:
            await asyncio.sleep(self._penalty_seconds)
        finally:
            self._penalties -= 1
