"""What a destination's address is, by kind: checked when it is typed in, opened when it is used."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from opsplane.alerts.channels import network, service, webhook
from opsplane.alerts.channels.base import Channel, Undelivered
from opsplane.alerts.channels.mail import Email
from opsplane.alerts.channels.network import Private
from opsplane.alerts.channels.service import Service
from opsplane.alerts.channels.teams import Teams
from opsplane.alerts.channels.webhook import Webhook
from opsplane.alerts.messages import Message
from opsplane.config import Settings
from opsplane.errors import InvalidInput
from opsplane.mailing import ADDRESS

RECIPIENTS = 50


def _url(url: str) -> str:
    network.parse(url)
    return url


def _secret(secret: str) -> str:
    webhook.key_of(secret)
    return secret


def _service(url: str) -> str:
    service.kind_of(url)
    return url


def _recipient(address: str) -> str:
    if ADDRESS.fullmatch(address) is None:
        raise ValueError("A recipient is not a plain address like ops@example.com.")
    return address


def _once(recipients: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(recipients))


class _Target(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TeamsTarget(_Target):
    """A channel or chat of Microsoft Teams."""

    kind: Literal["teams"]
    url: Annotated[str, AfterValidator(_url)] = Field(repr=False, description="The webhook's URL of a Teams Workflow.")

    @property
    def masked(self) -> str:
        """The address as people may see it."""
        return _host_of(self.url)

    def opened(self, settings: Settings) -> Channel:
        """A way there."""
        return Teams(self.url, _private(self.url, settings))


class EmailTarget(_Target):
    """People with mail."""

    kind: Literal["email"]
    recipients: Annotated[
        tuple[Annotated[str, AfterValidator(_recipient)], ...],
        Field(min_length=1, max_length=RECIPIENTS, description="Who gets the mail."),
        AfterValidator(_once),
    ]

    @property
    def masked(self) -> str:
        """The address as people may see it."""
        first, *others = self.recipients
        return f"{first}, +{len(others)}" if others else first

    def opened(self, settings: Settings) -> Channel:
        """A way there, through the installation's server."""
        if settings.mail_server is None or settings.mail_from is None:
            raise InvalidInput("Mail cannot be sent yet; set OPSPLANE_SMTP_URL and OPSPLANE_MAIL_FROM first.")
        return Email(self.recipients, settings.mail_server, settings.mail_from)


class WebhookTarget(_Target):
    """A receiver of signed JSON; without a secret, one is made."""

    kind: Literal["webhook"]
    url: Annotated[str, AfterValidator(_url)] = Field(repr=False, description="Where the JSON is posted.")
    secret: Annotated[str, BeforeValidator(lambda given: given or webhook.new_secret()), AfterValidator(_secret)] = (
        Field(
            default_factory=webhook.new_secret,
            repr=False,
            description="The key of the signatures, `whsec_…`; without one, a new one is made.",
        )
    )

    @model_validator(mode="before")
    @classmethod
    def _no_secret_is_none_given(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("secret"):
            return {name: value for name, value in given.items() if name != "secret"}
        return given

    @property
    def masked(self) -> str:
        """The address as people may see it."""
        return _host_of(self.url)

    def opened(self, settings: Settings) -> Channel:
        """A way there."""
        return Webhook(self.url, self.secret, _private(self.url, settings))


class ServiceTarget(_Target):
    """Another service, by its URL in apprise."""

    kind: Literal["service"]
    url: Annotated[str, AfterValidator(_service)] = Field(
        repr=False, description="An apprise URL, such as `slack://…`; docs/alerts.md lists the services."
    )

    @property
    def masked(self) -> str:
        """The address as people may see it."""
        return f"{service.kind_of(self.url).name} {self.url.partition('://')[0]}://…"

    def opened(self, settings: Settings) -> Channel:  # noqa: ARG002 - as the others
        """A way there; blocks for 0.2 s the first time."""
        try:
            return Service(self.url)
        except ValueError as error:
            raise InvalidInput(str(error)) from None


Target = Annotated[TeamsTarget | EmailTarget | WebhookTarget | ServiceTarget, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Target] = TypeAdapter(Target)


def parse(given: dict[str, Any] | bytes) -> Target:
    """A target from what somebody typed in, or from the JSON it was kept as.

    Raises:
        InvalidInput: in one sentence, which repeats nothing secret.
    """
    try:
        return _ADAPTER.validate_json(given) if isinstance(given, bytes) else _ADAPTER.validate_python(given)
    except ValidationError as error:
        raise InvalidInput(_sentence(error)) from None


def made_secret(target: Target | None) -> str | None:
    """The secret of a webhook for which none was given, to be shown once."""
    if isinstance(target, WebhookTarget) and "secret" not in target.model_fields_set:
        return target.secret
    return None


async def send(target: Target, settings: Settings, message: Message) -> None:
    """Open the target and deliver the message.

    Raises:
        Undelivered: it was not taken, or the settings no longer allow it.
    """
    try:
        channel = target.opened(settings)
    except InvalidInput as refusal:
        raise Undelivered(refusal.message) from None
    await channel.send(message)


def _private(url: str, settings: Settings) -> Private:
    private = Private.of(settings)
    try:
        network.refuse_private(url, private)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    return private


def _host_of(url: str) -> str:
    parsed = network.parse(url)
    return f"https://{network.host_header(parsed)}/…"


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    where = ".".join(str(part) for part in first["loc"][1:]) or "kind"
    return f"{where}: {first['msg']}"
