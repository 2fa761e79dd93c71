"""Names of models as programs write them, taken apart: whose model, what it is called there, which variant. Pure.

The same model has many spellings: ``us.anthropic.claude-sonnet-4-5-20250929-v1:0``, ``claude-sonnet-4@20250514``,
``openrouter/deepseek/deepseek-r1:free``, ``claude-sonnet-4-5[1m]``. What a name does not say is Unknown, with the
reason: the name of an Azure deployment says nothing of its model, nor does the id of a profile made at Bedrock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from coordination.domain.money.pricing import UnknownPrice, key_of

AZURE, BEDROCK, GOOGLE, OPENAI, OPENROUTER = "azure", "aws", "google", "openai", "openrouter"

# What programs put before a model's name, where the price list calls the provider otherwise.
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

# Spellings that only one provider has, without its name in front.
_OWN = (
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
_FREE_THERE = re.compile(f"[^/:]+/[^/:]+{FREE}")
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

_OTHER_REGION = "the price list does not know what it costs in that region"

# Their tokens are pictures or sound too, which cost more than text, and records do not tell them apart.
_MIXED = re.compile(
    "(^|[^a-z])(audio|realtime|transcribe|tts|live|voice|speech|whisper|sonic|image|images|imagen|video)([^a-z]|$)"
)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A name taken apart. *provider*: None where it says none; *slug*: what OpenRouter would understand by it."""

    provider: str | None
    model: str
    slug: str | None = None
    long: bool = False
    free: bool = False


def read(name: str) -> ModelName | UnknownPrice:
    """Whose model a name means and what it is called there, or why that cannot be known."""
    text = key_of(name)
    if not text.endswith(_LONG) or "claude" not in text:
        return _plain(text)
    found = _plain(text.removesuffix(_LONG))
    return found if isinstance(found, UnknownPrice) else replace(found, long=True)


def _plain(text: str) -> ModelName | UnknownPrice:
    said, mark, rest = _parted(text)
    provider = _PROVIDERS.get(said, said) if mark or said else None
    if provider == AZURE:
        return UnknownPrice("it is the name of a deployment at Azure, which does not say which model that is")
    if provider == BEDROCK:
        return _at_bedrock(rest)
    if rest.endswith(FREE) and provider != OPENROUTER:
        return UnknownPrice("only OpenRouter's models may be :free, and it does not begin with openrouter/")
    slug = text if mark == "/" else None
    if provider == GOOGLE:
        return _at_google(rest, slug)
    return ModelName(provider, rest, slug, free=provider == OPENROUTER and _FREE_THERE.fullmatch(rest) is not None)


def mixed(model: str) -> bool:
    """Whether a model hears, speaks or draws, so that tokens of text are not all that it is paid for."""
    return _MIXED.search(model) is not None


def without_region(model: str) -> str:
    """A name as Bedrock writes it, without the region and the maker before it; another name as it is."""
    named = _AT_BEDROCK.fullmatch(model)
    return named["model"] if named else model


def spellings(provider: str, model: str) -> tuple[str, ...]:
    """The name, and what is left of it without what makes no other model of it: dates, versions, regions."""
    found = [model]
    for each in found:  # grows meanwhile
        found += [short for short in _shorter(provider, each) if short and short not in found]
    return tuple(found)


def _parted(text: str) -> tuple[str, str, str]:
    """What stands for the provider, the mark behind it, and the rest; no mark where the spelling says whose it is."""
    if _AT_BEDROCK.fullmatch(text) or _ARN.fullmatch(text):
        return BEDROCK, "", text
    own = next((provider for form, provider in _OWN if form.match(text)), None)
    if own is not None:
        return own, "", text
    places = [place for mark in ":/" if (place := text.find(mark)) >= 0]
    if not places:
        return "", "", text
    first = min(places)
    return text[:first], text[first], text[first + 1 :]


def _at_bedrock(model: str) -> ModelName | UnknownPrice:
    """A model at Bedrock: its id, with LiteLLM's route and region before it, or an ARN that ends in its id."""
    for route in ("converse/", "invoke/"):
        model = model.removeprefix(route)
    place, slash, rest = model.partition("/")
    if slash and _PLACE.fullmatch(place):
        model = rest
    else:
        place = ""
    if arn := _ARN.fullmatch(model):
        if arn["where"] != "aws" or arn["kind"] not in _NAMED:
            return UnknownPrice("it is an ARN that does not say which model it stands for, or what that costs there")
        place, model = arn["place"], arn["id"]
        if not _AT_BEDROCK.fullmatch(model):
            return UnknownPrice("it is an ARN that does not say which model it stands for")
    named = _AT_BEDROCK.fullmatch(model)
    elsewhere = place and not re.match("us-(east|west)", place)
    if elsewhere and (place.startswith("us-gov") or named is None or named["vendor"] != "anthropic"):
        return UnknownPrice(_OTHER_REGION)
    return ModelName(BEDROCK, model)


def _at_google(model: str, slug: str | None) -> ModelName | UnknownPrice:
    """A model of Gemini's API or of Vertex AI: its id, with or without the path before it."""
    path = _VERTEX.fullmatch(model)
    if path and path["maker"] == "anthropic" and path["place"] not in (None, "global"):
        return UnknownPrice(_OTHER_REGION)  # a tenth more than what the list has, for most of these models
    model = path["model"] if path else model.removeprefix("models/")
    if model.startswith("projects/"):
        return UnknownPrice("it is the name of an endpoint at Vertex AI, which does not say which model that is")
    return ModelName(GOOGLE, model, slug)


def _shorter(provider: str, model: str) -> Iterator[str]:
    for end in (*_ENDS[""], *_ENDS.get(provider, ())):
        if cut := end.search(model):
            yield model[: cut.start()]
    if compact := _COMPACT.search(model):
        yield "-".join((model[: compact.start()], *compact.groups()))
    if provider == BEDROCK and (named := _AT_BEDROCK.fullmatch(model)):
        # Elsewhere than in the United States other makers' models have other prices. Only Claude costs the same.
        anywhere = named["vendor"] == "anthropic" and named["region"] not in ("global", "us-gov")
        if named["region"] and (named["region"] == "us" or anywhere):
            yield f"{named['vendor']}.{named['model']}"
        if not named["region"] and anywhere:
            yield named["model"]
    if provider == OPENAI and model.startswith("ft:") and model.count(":") > 1:  # ft:gpt-4o-mini-2024-07-18:us::abc
        yield ":".join(model.split(":", 2)[:2])
