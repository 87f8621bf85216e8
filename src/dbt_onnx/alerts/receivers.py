"""The receivers of alerts: webhooks of Slack, Teams or anything that takes JSON, and e-mail.

Addresses and passwords come from environment variables, and are never printed.
"""

from __future__ import annotations

import json
import smtplib
import ssl
import time
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from dbt_onnx.alerts.messages import Message, for_slack, for_teams
from dbt_onnx.errors import ConfigError
from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SECONDS = 10.0
"""The longest time for one attempt."""

WAITS = (1.0, 5.0)
"""Seconds before the second and the third attempt."""

_SLACK, _TEAMS, _JSON = "DBT_ONNX_SLACK_URL", "DBT_ONNX_TEAMS_URL", "DBT_ONNX_WEBHOOK_URL"
_SMTP, _FROM, _TO = "DBT_ONNX_SMTP_URL", "DBT_ONNX_MAIL_FROM", "DBT_ONNX_MAIL_TO"
_SHAPES: Mapping[str, tuple[str, Callable[[Message], dict[str, Any]]]] = {
    "slack": (_SLACK, for_slack),
    "teams": (_TEAMS, for_teams),
    "webhook": (_JSON, lambda message: message.document),
}
_SETTINGS_HINT = (
    f"set {_SLACK}, {_TEAMS} or {_JSON} to the address of a webhook, or {_SMTP} "
    f"(smtps://user:password@host:465), {_FROM} and {_TO} for e-mail"
)


class UndeliveredError(Exception):
    """One attempt failed. `is_final` if another one would fail, too."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        self.is_final = is_final
        super().__init__(reason)


class Receiver(Protocol):
    """Whoever gets alerts. `name` names it in the state and in messages."""

    @property
    def name(self) -> str: ...

    def send(self, message: Message) -> None:
        """Send the message once. Raises UndeliveredError."""
        ...


def receivers_in(environment: Mapping[str, str]) -> list[Receiver]:
    """Return the receivers that environment variables name.

    Raises ConfigError if there are none, or if one is malformed; the error shows no value.
    """
    found: list[Receiver] = [
        _Webhook(name, _url(environment[variable], variable), shape)
        for name, (variable, shape) in _SHAPES.items()
        if environment.get(variable)
    ]
    if environment.get(_SMTP):
        found.append(_mail(environment))
    if not found:
        raise ConfigError("no receiver of alerts is set", hint=_SETTINGS_HINT)
    return found


def deliver(
    receiver: Receiver, message: Message, *, sleep: Callable[[float], None] = time.sleep
) -> str | None:
    """Send a message, in up to three attempts. Return why it was not delivered; None if it was."""
    for wait in (*WAITS, None):
        try:
            receiver.send(message)
        except UndeliveredError as error:
            if error.is_final or wait is None:
                return str(error)
            sleep(wait)
        else:
            return None
    raise AssertionError


class _NoRedirects(HTTPRedirectHandler):
    """A redirect would send the alert to an address that nobody has set."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class _Webhook:
    name: str
    url: str = field(repr=False)
    shape: Callable[[Message], dict[str, Any]]

    def send(self, message: Message) -> None:
        body = json.dumps(self.shape(message)).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"dbt-onnx/{__version__}",
        }
        request = Request(self.url, body, headers, method="POST")  # noqa: S310, only http and https
        try:
            with build_opener(_NoRedirects).open(request, timeout=SECONDS):
                return
        except HTTPError as error:
            error.close()
            # 408, 429 and the errors of a server may pass; what it refuses now, it refuses again
            may_pass = error.code >= 500 or error.code in {408, 429}
            raise UndeliveredError(
                f"it answered with status {error.code}", is_final=not may_pass
            ) from None
        except (URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise UndeliveredError(
                f"it cannot be reached: {getattr(reason, 'strerror', None) or type(reason).__name__}"
            ) from None


@dataclass(frozen=True)
class _Mail:
    name: str
    host: str
    port: int
    is_encrypted: bool
    user: str | None
    password: str | None = field(repr=False)
    sender: str
    recipients: tuple[str, ...]

    def send(self, message: Message) -> None:
        mail = EmailMessage()
        mail["Subject"], mail["From"] = message.summary, self.sender
        mail["To"] = ", ".join(self.recipients)
        mail.set_content(f"{message.text}\n")
        try:
            with self._connected() as server:
                if self.user is not None:
                    server.login(self.user, self.password or "")
                server.send_message(mail)
        except smtplib.SMTPResponseException as error:
            raise UndeliveredError(
                f"the mail server answered with status {error.smtp_code}",
                is_final=error.smtp_code >= 500,
            ) from None
        except (smtplib.SMTPException, OSError) as error:
            raise UndeliveredError(
                f"the mail server cannot be reached: {getattr(error, 'strerror', None) or type(error).__name__}"
            ) from None

    def _connected(self) -> smtplib.SMTP:
        context = ssl.create_default_context()
        if self.is_encrypted:
            return smtplib.SMTP_SSL(self.host, self.port, timeout=SECONDS, context=context)
        server = smtplib.SMTP(self.host, self.port, timeout=SECONDS)
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls(context=context)
        elif self.user is not None:
            server.close()
            raise UndeliveredError(
                "the mail server offers no encryption, and a password is not sent without",
                is_final=True,
            )
        return server


def _url(text: str, variable: str) -> str:
    try:
        address = urlsplit(text)
        is_url = address.scheme in {"http", "https"} and address.hostname and address.port != 0
    except ValueError:
        is_url = False
    if not is_url or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(
            f"{variable} is not an http:// or https:// address",
            hint="set it to a webhook's address",
        )
    return text


def _mail(environment: Mapping[str, str]) -> _Mail:
    hint = f"{_SMTP} is smtps://user:password@host:465 or smtp://host:587, {_TO} has commas"
    try:
        address = urlsplit(environment[_SMTP])
        port, host = address.port, address.hostname
    except ValueError:
        port, host = None, None
    if not host or address.scheme not in {"smtp", "smtps"}:
        raise ConfigError(f"{_SMTP} is not an smtp:// or smtps:// address", hint=hint)
    recipients = [item.strip() for item in environment.get(_TO, "").split(",") if item.strip()]
    people = [environment.get(_FROM, ""), *recipients]
    if len(people) < 2 or not all("@" in item and item.isprintable() for item in people):
        raise ConfigError(f"e-mail needs {_FROM} and {_TO} with addresses", hint=hint)
    is_encrypted = address.scheme == "smtps"
    return _Mail(
        name="mail",
        host=host,
        port=port or (465 if is_encrypted else 587),
        is_encrypted=is_encrypted,
        user=unquote(address.username) if address.username else None,
        password=unquote(address.password) if address.password else None,
        sender=people[0],
        recipients=tuple(recipients),
    )
