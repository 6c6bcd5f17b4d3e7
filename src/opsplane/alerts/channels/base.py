"""What a channel is: it delivers one message, or says why not."""

from typing import Protocol

from opsplane.alerts.messages import Message

SEND_S = 10.0  # for one message, from the name's look-up to the answer


class Undelivered(Exception):
    """The channel did not take the message; the words are for operators and never hold a secret or an answer's body."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s  # when the receiver asked for patience


class Channel(Protocol):
    """An opened way to one destination."""

    async def send(self, message: Message) -> None:
        """Deliver the message, within `SEND_S`.

        Raises:
            Undelivered: it may or may not have arrived; the next try has the same key.
        """
