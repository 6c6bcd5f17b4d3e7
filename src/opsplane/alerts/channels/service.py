"""Other services, through apprise: those whose host is fixed in apprise itself, so that no URL can lead elsewhere."""

import asyncio
import importlib
import logging
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opsplane.alerts.channels import base, text
from opsplane.alerts.channels.base import Undelivered
from opsplane.alerts.messages import Message
from opsplane.outbox import Severity

if TYPE_CHECKING:
    from apprise import Apprise


@dataclass(frozen=True)
class Kind:
    """A service that apprise knows: what people call it, and its plugin."""

    name: str
    module: str
    plugin: str
    chosen: dict[str, str] = field(default_factory=dict)


# Read in apprise 2.2: each posts to constant hosts, and a URL chooses no more than one of two regions.
# Left out because a URL can name the host: mattermost, rocket.chat, matrix, gotify, ntfy, zulip, json, xml, form, …
SERVICES = {
    "slack": Kind("Slack", "slack", "NotifySlack"),
    "discord": Kind("Discord", "discord", "NotifyDiscord"),
    "gchat": Kind("Google Chat", "google_chat", "NotifyGoogleChat"),
    "pagerduty": Kind("PagerDuty", "pagerduty", "NotifyPagerDuty"),
    "opsgenie": Kind("Opsgenie", "opsgenie", "NotifyOpsgenie", {"action": "new"}),  # else information closes alerts
    "tgram": Kind("Telegram", "telegram", "NotifyTelegram"),
    "splunk": Kind("Splunk On-Call", "splunk", "NotifySplunk"),
    "victorops": Kind("Splunk On-Call", "splunk", "NotifySplunk"),
    "wxteams": Kind("Webex", "webexteams", "NotifyWebexTeams"),
    "pover": Kind("Pushover", "pushover", "NotifyPushover"),
}
# Options could read files (template=), switch off TLS checks (verify=) or wait (retry=, rto=): all but one are refused.
_URL = re.compile(r"([a-z]+)://[^\s?&\\]{1,1900}(\?region=(us|eu))?", re.ASCII)
_MENTION = re.compile(r"@(?=everyone|here|channel|all)|<(?=[!@#])")
TYPES = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "failure"}
TIMEOUT_S = 4.0  # for connecting, and again for each read


def kind_of(url: str) -> Kind:
    """The service that the URL leads to.

    Raises:
        ValueError: in a sentence for whoever typed it.
    """
    found = _URL.fullmatch(url) if url.isascii() and url.isprintable() else None
    scheme = url.partition("://")[0]
    if scheme not in SERVICES:
        raise ValueError(f"The URL must start with one of {', '.join(f'{known}://' for known in SERVICES)}.")
    if found is None:
        raise ValueError("The URL takes no options but ?region=us or ?region=eu, and no spaces.")
    return SERVICES[scheme]


class Service:
    """One account of such a service."""

    def __init__(self, url: str) -> None:
        """Have apprise read the URL; blocks for 0.2 s the first time.

        Raises:
            ValueError: apprise cannot read it; in a sentence for whoever typed it.
        """
        self._name = kind_of(url).name
        self._apprise = _opened(url, kind_of(url))

    async def send(self, message: Message) -> None:
        """Deliver the message; apprise says whether it could, and no more."""
        try:
            async with asyncio.timeout(base.SEND_S):
                taken = await self._notified(message)
        except TimeoutError:
            raise Undelivered(f"{self._name} did not answer in time") from None
        if not taken:
            raise Undelivered(f"{self._name} refused it or could not be reached")

    async def _notified(self, message: Message) -> bool:
        # A thread of its own, for one that hangs must neither hold up the end of the process nor fill the pool.
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def settle(taken: bool) -> None:
            if not answer.done():
                answer.set_result(taken)

        def work() -> None:
            taken = self._notify(message)
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, taken)

        threading.Thread(target=work, name="apprise", daemon=True).start()
        return await answer

    def _notify(self, message: Message) -> bool:
        try:
            return bool(
                self._apprise.notify(
                    title=_harmless(text.line(message.title)),
                    body=_harmless(text.body(message)),
                    notify_type=TYPES[message.severity],
                    body_format="text",
                )
            )
        except Exception:  # noqa: BLE001 - of 20 plugins, each may fail in its own way, and none may end the thread
            return False


def _opened(url: str, kind: Kind) -> "Apprise":
    # Imported here and not above: it takes 0.2 s and 10 MB that most installations never need. The plugin is taken
    # by its name, because apprise's own search for it would import all 150.
    apprise = importlib.import_module("apprise")
    plugin = getattr(importlib.import_module(f"apprise.plugins.{kind.module}"), kind.plugin)
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it logs URLs with their tokens, and answers
    logging.getLogger("urllib3").setLevel(logging.WARNING)  # so does this
    asset = apprise.AppriseAsset(
        app_id="opsplane", app_desc="opsplane", app_url="", image_url_mask="", image_url_logo="",
        http_redirects=False, storage_mode="memory", service_timeout=base.SEND_S, async_mode=False,
    )  # fmt: skip
    try:
        account = plugin(**(plugin.parse_url(url) or {}) | kind.chosen, asset=asset)
    except TypeError:
        raise ValueError(f"The URL is not one of {kind.name}.") from None
    account.socket_connect_timeout = account.socket_read_timeout = TIMEOUT_S
    service = apprise.Apprise(asset=asset)
    service.add(account)
    return service  # type: ignore[no-any-return]


def _harmless(words: str) -> str:
    """The words, calling nobody: a name like @everyone does not ring everyone."""
    return _MENTION.sub("\\g<0>\u200b", words)
