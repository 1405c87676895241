"""The bearer token of the edge API."""

import hmac
from collections.abc import Sequence

from starlette.types import Scope


class Tokens:
    """The tokens that open the edge API; none at all leaves it open."""

    def __init__(self, accepted: Sequence[str]) -> None:
        self._accepted = tuple(b"bearer " + token.encode() for token in accepted)

    @property
    def open(self) -> bool:
        return not self._accepted

    def admit(self, scope: Scope) -> bool:
        """Does the request carry an accepted token? Takes the same time for each wrong one."""
        if not self._accepted:
            return True
        given = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
        given = given[:7].lower() + given[7:]  # the scheme's case is free (RFC 9110, 11.1)
        # Every token is compared, so that the time does not tell which of them was near.
        matches = [hmac.compare_digest(given, accepted) for accepted in self._accepted]
        return any(matches)
