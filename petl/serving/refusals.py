"""What the server refuses: a status of HTTP and one sentence for whoever asked."""

from __future__ import annotations

from petl.errors import ITEM, printable, shortened


class Refusal(Exception):
    """A request that can't be answered; the message is for the client, and says nothing of the server's inside."""

    def __init__(self, status: int, message: object, retry_after: int | None = None):
        super().__init__(" ".join(printable(str(message), keep="\n").split()))
        self.status, self.retry_after = status, retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def quoted(text: object) -> str:
    """Returns a client's own word as it stands in a sentence: short, and with control characters spelled out.

    >>> quoted("pets")
    "'pets'"
    """
    return repr(shortened(str(text), ITEM))
