"""A signed webhook, as standardwebhooks.com describes it, so that receivers find a library that verifies it."""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC

from opsplane.alerts.channels import network, text
from opsplane.alerts.channels.network import Private
from opsplane.alerts.messages import Message

PREFIX = "whsec_"
KEY_BYTES = range(24, 65)


@dataclass(frozen=True)
class Webhook:
    """One receiver of signed JSON."""

    url: str
    secret: str = field(repr=False)
    private: Private

    async def send(self, message: Message) -> None:
        """Deliver the message; its id and body are the same each time, only time and signature are new."""
        content = body(message)
        headers = {"Content-Type": "application/json"} | signed(message.key, content, self.secret)
        await network.post(self.url, headers=headers, content=content, private=self.private)


def body(message: Message) -> bytes:
    """The JSON that is signed: what happened, when, and its facts."""
    at = message.at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    data = message.data | {"title": text.line(message.title)}
    document = {"type": message.kind, "timestamp": at, "data": data}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def signed(key: str, content: bytes, secret: str) -> dict[str, str]:
    """The headers that prove, for the next minutes, who sent this."""
    now = str(int(time.time()))
    digest = hmac.digest(key_of(secret), f"{key}.{now}.".encode() + content, hashlib.sha256)
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": key, "webhook-timestamp": now, "webhook-signature": signature}


def new_secret() -> str:
    """A key that nobody has yet."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def key_of(secret: str) -> bytes:
    """The bytes of the key.

    Raises:
        ValueError: in a sentence for whoever typed it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or len(key) not in KEY_BYTES:
        raise ValueError("The secret must be whsec_ and 24 to 64 bytes in base64; leave it out, and one is made.")
    return key
