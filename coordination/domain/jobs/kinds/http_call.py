"""The job kind ``http``: an HTTP request, which workers/runners/http sends."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import urlsplit

from coordination.base.errors import Refused
from coordination.base.fields import (
    ANYTHING,
    DURATION,
    TEXT,
    TEXTS,
    TEXTS_BY_NAME,
    Field,
    ValueType,
    plain,
    record,
    text,
    type_refusal,
)
from coordination.base.wording import excerpt, without_user
from coordination.domain.jobs.base import SECRETS, Job
from coordination.domain.jobs.job_environment import check_environment
from coordination.domain.jobs.network import Place, normalize_host, parse_place

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TIMEOUT = timedelta(seconds=30)
LONGEST_TIMEOUT = timedelta(days=1)
SUCCESS = ("200..299",)

_LONGEST_URL = 8_000
_MOST_HEADERS = 100
_LONGEST_HEADER = 8_000
_URL = re.compile(r"https?://[^\s/?#@\\]+([/?#][^\s\\]*)?")
_USER = re.compile(r"https?://[^\s/?#{]*@")
_LITERAL_HOST = re.compile(r"https?://[^\s/?#@\\{}]+([/?#]|$)")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NOT_IN_HEADERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_RESERVED_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect", "te"}
)
_CREDENTIALS = re.compile(r"(?i)(authorization|cookie|api-?key|token|secret|passw|credential)")
_SHORTEST_SECRET = 8
_SECRET_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_STATUSES = re.compile(r"([1-5][0-9]{2})(?:\.\.([1-5][0-9]{2}))?")


def is_credential(name: str, value: str) -> bool:
    """Return whether a header has a name of credentials or contains a secret; it is not sent to other hosts."""
    return _CREDENTIALS.search(name) is not None or _SECRET_REFERENCE.search(value) is not None


def _load_headers(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):  # a template that is one expression may render to a number
        value = {key: str(item) if type(item) in (int, float) else item for key, item in value.items()}
    return TEXTS_BY_NAME.load(value, place)


def _load_statuses(value: Any, place: str) -> tuple[str, ...]:
    hint = 'Write [200, 404] or ["200..299"]'
    if not isinstance(value, list | tuple):
        raise type_refusal(place, "a list of statuses", value, hint=hint)
    if not value:
        raise Refused(f"{place} is empty, so that no status is a success", hint=hint, field=place)
    items = [str(item) if type(item) is int else item for item in value]
    for index, item in enumerate(items):
        match = _STATUSES.fullmatch(item) if isinstance(item, str) else None
        if match is None:
            raise type_refusal(f"{place}[{index}]", "a status from 100 to 599 or a range", value[index], hint=hint)
        low, high = match.groups()
        if high is not None and low > high:
            message = f"{place}[{index}] is {excerpt(item)}, a range without any status"
            raise Refused(message, hint=f'Write "{high}..{low}"', field=f"{place}[{index}]")
    return tuple(items)


_STATUS = {"anyOf": [{"type": "integer", "minimum": 100, "maximum": 599}, {"type": "string"}]}
_REQUEST = (
    Field("url", TEXT, "the address, `https://…`", required=True),
    Field("method", text(words=METHODS), "`GET` (default), `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE` or `OPTIONS`"),
    Field(
        "headers",
        replace(TEXTS_BY_NAME, load=_load_headers),
        "headers by name; `${NAME}` is replaced by a variable that is listed under `secrets`",
    ),
    Field("body", ANYTHING, "a text, or a value that is sent as JSON"),
    Field(
        "expect",
        ValueType(_load_statuses, {"type": "array", "items": _STATUS, "minItems": 1}, plain),
        "the statuses that count as success: `[200, 404]`, `[200..299]` (default)",
    ),
    Field("timeout", DURATION, "how long it may take in all, redirects included; default 30s"),
)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. *body*: a text, a value that is sent as JSON, or None. *expect*: statuses and ranges of success."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    expect: Sequence[str] = SUCCESS
    timeout: timedelta = TIMEOUT

    def expects(self, status: int) -> bool:
        """Return whether a response with that *status* is a success."""
        ranges = [match.groups() for text in self.expect if (match := _STATUSES.fullmatch(text))]
        return any(int(low) <= status <= int(high or low) for low, high in ranges)


@dataclass(frozen=True, slots=True)
class HttpCall(Job):
    """An HTTP request. Its output is the body of the response: text, or the value of JSON.

    *secrets*: names of variables of the worker's environment, for ``${NAME}`` in headers; their values are not stored,
    and are not sent to other hosts. *network*: ``host:port`` of places in private networks or on the worker's machine
    that it may reach in addition to the public internet.
    """

    request: HttpRequest
    secrets: Sequence[str] = ()
    network: Sequence[str] = ()

    account: ClassVar[str | None] = None
    env: ClassVar[Mapping[str, str]] = {}
    kind = "http"
    table = (
        Field(
            "http",
            record(HttpRequest, _REQUEST),
            "`url`, `method`, `headers`, `body`, `expect` (statuses), `timeout`",
            required=True,
            attribute="request",
        ),
        SECRETS,
        Field("network", TEXTS, "`host:port` of places outside the public internet that it may reach"),
    )
    templates = ("http",)
    keeps_values = True
    output_name = "body"
    plan_only_fields = ("network",)

    @property
    def places(self) -> frozenset[Place]:
        """Return the places of *network*."""
        return frozenset(map(parse_place, self.network))

    @classmethod
    def label(cls, body: Mapping[str, Any]) -> str:
        """Return the method and the host."""
        return f"{body['http'].get('method', 'GET')} {str(body['http'].get('url')).partition('://')[2].split('/')[0]}"

    @classmethod
    def instruction(cls, body: Mapping[str, Any]) -> str:
        """Return the method and the address."""
        return f"{body['http'].get('method', 'GET')} {body['http'].get('url')}"

    def check(self) -> None:
        """Raise Refused for an invalid address, method or header, and for secrets that another host could get."""
        request = self.request
        if request.method not in METHODS:
            message = f"{excerpt(request.method)} is not a method"
            raise Refused(message, hint=f"It may be: {', '.join(METHODS)}", field="http.method")
        if not timedelta(0) < request.timeout <= LONGEST_TIMEOUT:
            raise Refused("http.timeout must be longer than zero and at most a day", field="http.timeout")
        _check_url(request.url)
        check_environment({}, self.secrets)
        self._check_headers()
        if self.secrets and not _LITERAL_HOST.match(request.url):
            hint = "Outputs of tasks must not decide where keys are sent: write https://host/{{ … }}"
            raise Refused("The host of a request with secrets cannot be a template", hint=hint, field="http.url")
        for place in self.network:
            try:
                parse_place(place)
            except ValueError:
                message = f"{excerpt(without_user(place))} is not a host with a port"
                raise Refused(message, hint="Write it like intranet:8080", field="network") from None

    def _check_headers(self) -> None:
        headers = self.request.headers
        if len(headers) > _MOST_HEADERS:
            raise Refused(
                f"There are {len(headers)} headers, at most {_MOST_HEADERS} are possible", field="http.headers"
            )
        for name, value in headers.items():
            place = f"http.headers.{name}"
            if not _HEADER.fullmatch(name) or name.lower() in _RESERVED_HEADERS:
                raise Refused(f"{excerpt(name)} cannot be set as a header", field=place)
            if len(value) > _LONGEST_HEADER or _NOT_IN_HEADERS.search(value):
                raise Refused(f"The header {name} is too long or contains a line break", field=place)
            references = set(_SECRET_REFERENCE.findall(value))
            if unknown := sorted(references - set(self.secrets)):
                message = f"The header {name} uses ${{{unknown[0]}}}, which is not listed in secrets"
                raise Refused(message, hint=f"Write secrets: [{unknown[0]}]", field=place)
            if not references and "{{" not in value and len(value) >= _SHORTEST_SECRET and _CREDENTIALS.search(name):
                message = f"The header {name} looks like a secret, and plans are stored and shown"
                hint = f"Set a variable where the worker runs, and write {name}: ${{NAME}} and secrets: [NAME]"
                raise Refused(message, hint=hint, field=place)


def _check_url(url: str) -> None:
    if ("{{" in url or "{%" in url) and not _USER.match(url):
        return  # checked when the job starts, because it is known only then
    valid = len(url) <= _LONGEST_URL and _URL.fullmatch(url) is not None
    try:
        parts = urlsplit(url)
        valid = valid and parts.port != 0 and bool(parts.hostname)
        if ":" not in (parts.hostname or ""):
            normalize_host((parts.hostname or "").encode("idna").decode("ascii"))
    except ValueError:
        valid = False
    if not valid:
        message = f"{excerpt(without_user(url))} is not an address"
        raise Refused(message, hint="Write it like https://host/path, no password", field="http.url")


def with_secrets(value: str, secrets: Mapping[str, str]) -> str:
    """Return a header's value with its ``${NAME}`` replaced by the *secrets*."""
    return _SECRET_REFERENCE.sub(lambda match: secrets[match[1]], value)
