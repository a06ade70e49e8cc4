"""Where a model is asked: its addresses and keys, as an entry of models.yaml may write them. Pydantic only, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from gateway.config.failover_specs import is_list

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
HeaderValue = Annotated[str, Field(pattern=r"^[\x20-\x7e]*$")]


def _an_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_one = parts.port != 0 and bool((parts.hostname or "").encode("idna"))
    except ValueError:
        is_one = False
    if not is_one:
        raise ValueError("is not a web address")
    return value.rstrip("/")


def _a_server(value: str) -> str:
    if not value.startswith("http+unix://"):
        return _an_address(value)
    if not re.fullmatch(r"%2[Ff][^:@?#]+", urlsplit(value).netloc):
        raise ValueError("needs the socket's whole path, written like http+unix://%2Frun%2Fmodel.sock/v1")
    return value.rstrip("/")


def _without_line_end(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value  # `$(cat key)` and files end in one


def _once(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value))  # two variables may hold the same


WebAddress = Annotated[str, Field(pattern=r"^https?://[^\s/]+"), AfterValidator(_an_address)]
ServerAddress = Annotated[str, Field(pattern=r"^(https?|http\+unix)://[^\s/]+"), AfterValidator(_a_server)]
ApiKey = Annotated[HeaderValue, BeforeValidator(_without_line_end)]
ApiKeys = Annotated[
    Annotated[ApiKey, Tag("one")]
    | Annotated[tuple[ApiKey, ...], Field(min_length=1), AfterValidator(_once), Tag("list")],
    Discriminator(is_list),
]


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AddressSpec(Spec):
    """One of several addresses of a model."""

    url: ServerAddress
    key: ApiKey | None = None  # else the entry's
    weight: float | None = Field(default=None, gt=0, le=1000)  # its share of the requests; else by its places


def _form(value: Any) -> str:
    """Which of the ways to write addresses is meant; mistakes are then told for that one alone."""
    return "list" if isinstance(value, list | tuple) else "mapping" if isinstance(value, dict | AddressSpec) else "url"


def _each_once(value: tuple[str | AddressSpec, ...]) -> tuple[str | AddressSpec, ...]:
    urls = [one if isinstance(one, str) else one.url for one in value]
    if len(set(urls)) < len(urls):
        raise ValueError("has an address twice")
    return value


OneAddress = Annotated[
    Annotated[ServerAddress, Tag("url")] | Annotated[AddressSpec, Tag("mapping")], Discriminator(_form)
]
Addresses = Annotated[
    Annotated[ServerAddress, Tag("url")]
    | Annotated[tuple[OneAddress, ...], Field(min_length=1), AfterValidator(_each_once), Tag("list")],
    Discriminator(lambda value: "list" if _form(value) == "list" else "url"),
]


def addresses_of(said: str | tuple[str | AddressSpec, ...], keys: Sequence[str | None]) -> tuple[AddressSpec, ...]:
    """All of them, once for each of their keys, which share its weight."""
    several = (said,) if isinstance(said, str) else said
    specs = (AddressSpec(url=one) if isinstance(one, str) else one for one in several)
    return tuple(keyed for spec in specs for keyed in _keyed(spec, keys))


def _keyed(spec: AddressSpec, keys: Sequence[str | None]) -> Iterator[AddressSpec]:
    for key in keys if spec.key is None else (spec.key,):
        weight = spec.weight / len(keys) if spec.weight is not None and spec.key is None else spec.weight
        yield spec.model_copy(update={"key": key, "weight": weight})


def with_a_choice(is_said: bool, addresses: Sequence[AddressSpec]) -> None:
    """Args: `is_said`: does the entry say how to balance?"""
    if is_said and len(addresses) < 2:
        raise ValueError("'balance' is for a model with several addresses or keys")
