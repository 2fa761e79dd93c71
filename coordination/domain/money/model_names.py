"""Parses names of models as programs write them, into provider, model and variant.

The same model has many spellings: ``us.anthropic.claude-sonnet-4-5-20250929-v1:0``, ``claude-sonnet-4@20250514``,
``openrouter/deepseek/deepseek-r1:free``, ``claude-sonnet-4-5[1m]``. Names that do not identify a model, such as those
of Azure deployments and Bedrock profiles, have an UnknownPrice with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from coordination.domain.money.pricing import UnknownPrice, model_key

AZURE, BEDROCK, GOOGLE, OPENAI, OPENROUTER = "azure", "aws", "google", "openai", "openrouter"

# Prefixes of model names whose provider has another name in the price list.
_PROVIDERS = {
    **dict.fromkeys(("openai-chat", "openai_chat", "openai-responses", "text-completion-openai"), OPENAI),
    **dict.fromkeys(("google-gla", "google_genai", "google-genai", "gemini"), GOOGLE),
    **dict.fromkeys(("google-vertex", "google_vertexai", "google-vertex-anthropic", "vertex_ai", "vertex"), GOOGLE),
    **dict.fromkeys(("vertex_ai_beta", "anthropic-vertex", "google_anthropic_vertex"), GOOGLE),
    **dict.fromkeys(("bedrock", "amazon-bedrock", "bedrock_converse", "anthropic-bedrock"), BEDROCK),
    **dict.fromkeys(("azure_ai", "azure-openai", "azure_openai", "azure-responses", "azure_text"), AZURE),
    **dict.fromkeys(("xai", "grok"), "x-ai"),
    **dict.fromkeys(("together-ai", "together_ai", "togetherai"), "together"),
    **dict.fromkeys(("fireworks-ai", "fireworks_ai"), "fireworks"),
    "github_copilot": "github-copilot",
    "moonshot": "moonshotai",
    "mistralai": "mistral",
    "cohere_chat": "cohere",
    "voyage": "voyageai",
}

# Spellings that identify a provider without its name as a prefix.
_PROVIDER_SPELLINGS = (
    (re.compile(r"ft:gpt-|text-embedding-(3|ada)-|chatgpt-|codex-mini|computer-use-"), OPENAI),
    (re.compile(r"publishers/|projects/[^/]+/locations/"), GOOGLE),
    (re.compile(r"models/(gemini|gemma)|claude-[^@:/]+@[a-z0-9]+$"), GOOGLE),
    (re.compile("accounts/fireworks/"), "fireworks"),
    (re.compile("@cf/"), "cloudflare"),
)

_REGIONS = "us|eu|apac|au|jp|in|ca|sa|global|us-gov"
_VENDORS = (
    "ai21|amazon|anthropic|cohere|deepseek|google|luma|meta|minimax|mistral|moonshot|moonshotai|nvidia|openai|qwen|"
    "stability|twelvelabs|writer|zai"
)
_AT_BEDROCK = re.compile(rf"((?P<region>{_REGIONS})\.)?(?P<vendor>{_VENDORS})\.(?P<model>[a-z0-9].*)")
_ARN = re.compile(r"arn:(?P<where>aws[a-z-]*):bedrock:(?P<place>[a-z0-9-]*):[0-9]*:(?P<kind>[a-z-]+)/(?P<id>.+)")
_NAMED = ("foundation-model", "inference-profile")
_PLACE = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]")
_VERTEX = re.compile(
    r"(projects/[^/]+/locations/(?P<place>[^/]+)/)?publishers/(?P<maker>[^/]+)/models/(?P<model>[^/]+)"
)

FREE = ":free"
_FREE_MODEL = re.compile(f"[^/:]+/[^/:]+{FREE}")
_LONG = "[1m]"  # Claude Code's mark for the long context

_DATED = re.compile(r"[-@](20[0-9]{2}(0[1-9]|1[0-2])[0-3][0-9]|20[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9])$")
_COMPACT = re.compile("-(20[0-9]{2})(0[1-9]|1[0-2])([0-3][0-9])$")
_ENDS = {
    "": (_DATED, re.compile("-latest$")),
    OPENAI: (re.compile("-preview$"), re.compile("-[01][0-9][0-3][0-9]$")),
    GOOGLE: (
        re.compile("@(latest|default)$"),
        re.compile("-00[0-9]$"),
        re.compile("-v[0-9]$"),
        re.compile("-preview(-[0-9]{2}-([0-9]{2}|20[0-9]{2}))?$"),
    ),
    BEDROCK: (re.compile(":[0-9]$"), re.compile("-v[0-9]$")),
    "mistral": (re.compile("-2[0-9](0[1-9]|1[0-2])$"),),
}

_OTHER_REGION = "the price list has no price for that region"

# Their tokens can be images or sound, which cost more than text, and records do not distinguish them.
_MIXED = re.compile(
    "(^|[^a-z])(audio|realtime|transcribe|tts|live|voice|speech|whisper|sonic|image|images|imagen|video)([^a-z]|$)"
)


@dataclass(frozen=True, slots=True)
class ModelName:
    """The parts of a name. *provider*: None if the name has none; *slug*: its meaning at OpenRouter."""

    provider: str | None
    model: str
    slug: str | None = None
    long: bool = False
    free: bool = False


def parse_model_name(name: str) -> ModelName | UnknownPrice:
    """Parse a name, or return why it does not identify a model."""
    text = model_key(name)
    if not text.endswith(_LONG) or "claude" not in text:
        return _plain(text)
    parsed = _plain(text.removesuffix(_LONG))
    return parsed if isinstance(parsed, UnknownPrice) else replace(parsed, long=True)


def _plain(text: str) -> ModelName | UnknownPrice:
    prefix, mark, rest = _split(text)
    provider = _PROVIDERS.get(prefix, prefix) if mark or prefix else None
    if provider == AZURE:
        return UnknownPrice("it is the name of an Azure deployment, which does not identify its model")
    if provider == BEDROCK:
        return _at_bedrock(rest)
    if rest.endswith(FREE) and provider != OPENROUTER:
        return UnknownPrice("only names that start with openrouter/ can end with :free")
    slug = text if mark == "/" else None
    if provider == GOOGLE:
        return _at_google(rest, slug)
    return ModelName(provider, rest, slug, free=provider == OPENROUTER and _FREE_MODEL.fullmatch(rest) is not None)


def is_multimodal(model: str) -> bool:
    """Return whether the model processes sound or images, so that not all tokens have the price of text."""
    return _MIXED.search(model) is not None


def without_region(model: str) -> str:
    """Return a Bedrock name without its region and vendor, and any other name unchanged."""
    parts = _AT_BEDROCK.fullmatch(model)
    return parts["model"] if parts else model


def spellings(provider: str, model: str) -> tuple[str, ...]:
    """Return the model's name and shorter forms of it, without dates, versions and regions."""
    names = [model]
    for each in names:  # grows in the loop
        names += [short for short in _shorter(provider, each) if short and short not in names]
    return tuple(names)


def _split(text: str) -> tuple[str, str, str]:
    """Split a name into the provider, the separator and the rest; no separator if the spelling identifies it."""
    if _AT_BEDROCK.fullmatch(text) or _ARN.fullmatch(text):
        return BEDROCK, "", text
    provider = next((provider for form, provider in _PROVIDER_SPELLINGS if form.match(text)), None)
    if provider is not None:
        return provider, "", text
    positions = [position for mark in ":/" if (position := text.find(mark)) >= 0]
    if not positions:
        return "", "", text
    first = min(positions)
    return text[:first], text[first], text[first + 1 :]


def _at_bedrock(model: str) -> ModelName | UnknownPrice:
    """Parse a name at Bedrock: an id, with LiteLLM's route and region before it, or an ARN that ends with an id."""
    for route in ("converse/", "invoke/"):
        model = model.removeprefix(route)
    place, slash, rest = model.partition("/")
    if slash and _PLACE.fullmatch(place):
        model = rest
    else:
        place = ""
    if arn := _ARN.fullmatch(model):
        if arn["where"] != "aws" or arn["kind"] not in _NAMED:
            return UnknownPrice("it is an ARN that does not identify a model, or its price there")
        place, model = arn["place"], arn["id"]
        if not _AT_BEDROCK.fullmatch(model):
            return UnknownPrice("it is an ARN that does not identify a model")
    parts = _AT_BEDROCK.fullmatch(model)
    elsewhere = place and not re.match("us-(east|west)", place)
    if elsewhere and (place.startswith("us-gov") or parts is None or parts["vendor"] != "anthropic"):
        return UnknownPrice(_OTHER_REGION)
    return ModelName(BEDROCK, model)


def _at_google(model: str, slug: str | None) -> ModelName | UnknownPrice:
    """Parse a name of the Gemini API or Vertex AI: an id, with or without a path before it."""
    path = _VERTEX.fullmatch(model)
    if path and path["maker"] == "anthropic" and path["place"] not in (None, "global"):
        return UnknownPrice(_OTHER_REGION)  # for most of these models, ten percent more than in the list
    model = path["model"] if path else model.removeprefix("models/")
    if model.startswith("projects/"):
        return UnknownPrice("it is the name of a Vertex AI endpoint, which does not identify its model")
    return ModelName(GOOGLE, model, slug)


def _shorter(provider: str, model: str) -> Iterator[str]:
    for end in (*_ENDS[""], *_ENDS.get(provider, ())):
        if cut := end.search(model):
            yield model[: cut.start()]
    if compact := _COMPACT.search(model):
        yield "-".join((model[: compact.start()], *compact.groups()))
    if provider == BEDROCK and (named := _AT_BEDROCK.fullmatch(model)):
        # Outside of the United States, models have other prices, except Claude.
        anywhere = named["vendor"] == "anthropic" and named["region"] not in ("global", "us-gov")
        if named["region"] and (named["region"] == "us" or anywhere):
            yield f"{named['vendor']}.{named['model']}"
        if not named["region"] and anywhere:
            yield named["model"]
    if provider == OPENAI and model.startswith("ft:") and model.count(":") > 1:  # ft:gpt-4o-mini-2024-07-18:us::abc
        yield ":".join(model.split(":", 2)[:2])
