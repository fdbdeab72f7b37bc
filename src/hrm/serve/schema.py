"""What the routes for text take and give, as OpenAI's clients write and read it, and what is ours besides."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST = 2**53 - 1
"""Beyond it, many that read JSON round whole numbers."""
Word = Annotated[str, Field(min_length=1, max_length=1000)]
Id = Annotated[int, Field(ge=0, le=2**31)]
Step = Annotated[int, Field(ge=1, le=32)]
Mode = Literal["fast", "normal", "deep", "extreme", "auto"]
Halting = Literal["fixed", "q", "kl", "change", "readout"]

WITHOUT_EFFECT = (
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
    "service_tier", "store", "user", "verbosity", "reasoning_effort",
)  # fmt: skip
"""Fields of OpenAI's that change nothing here, and are accepted."""
REFUSED = {
    "audio": "models here read and write text alone",
    "best_of": "ask for n texts and choose among them",
    "frequency_penalty": "use repetition_penalty",
    "functions": "models here call no functions",
    "function_call": "models here call no functions",
    "logit_bias": "single tokens cannot be preferred",
    "modalities": "models here read and write text alone",
    "prediction": "a guess of the answer does not help here",
    "presence_penalty": "use repetition_penalty",
    "response_format": "answers are plain text",
    "suffix": "models here continue a text and do not fill gaps",
    "tool_choice": "models here call no tools",
    "tools": "models here call no tools",
    "web_search_options": "models here do not search the web",
}
"""Fields of OpenAI's that would change the answer, and why they cannot; their neutral values are accepted."""
_NEUTRAL: dict[str, Any] = {
    "best_of": 1, "frequency_penalty": 0, "presence_penalty": 0, "response_format": {"type": "text"},
    "tool_choice": "none", "modalities": ["text"],
}  # fmt: skip


class Strict(BaseModel):
    """Fields that are not known are refused, and so are values of another kind."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, given: Any) -> Any:
        return {name: whole(value) for name, value in given.items()} if isinstance(given, dict) else given


def whole(value: Any, deep: int = 16) -> Any:
    """The same with whole numbers as such, also in lists: in JSON, 8.0 is one. What lies deeper than any field here
    stays as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [whole(each, deep - 1) for each in value] if isinstance(value, list) and deep else value


class StreamOptions(Strict):
    """How a stream ends."""

    include_usage: bool | None = None
    """Send what it took in a last chunk."""
    include_obfuscation: bool | None = None
    """Accepted, without effect."""


class TextRequest(Strict):
    """What both routes for text take; fields left out are as on the command line."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    """How many texts; number i is drawn with seed + 1000003 i."""
    seed: Annotated[int, Field(ge=0, le=MOST)] | None = None
    """The same seed and settings draw the same text; default: a new one, which the answer says."""
    temperature: Annotated[float, Field(ge=0, le=1000)] | None = None
    """Below 1 prefers likely tokens, 0 always takes the likeliest; default: 0.8."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=10**9)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    stop: Word | Annotated[list[Word], Field(max_length=16)] | None = None
    """End before any of these."""
    mode: Mode | None = None
    """How long to think about each token, as in hrm chat."""
    max_segments: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Segments a token may take; default: the model's own, or the mode's."""
    halting: Halting | None = None
    """When a token stops thinking."""
    exit_threshold: Annotated[float, Field(ge=-(10**6), le=10**6)] | None = None
    schedule: Annotated[list[Step], Field(min_length=2, max_length=2)] | None = None
    """Cycles and steps of a segment."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        own = cls.model_fields
        kept = {}
        for name, value in given.items():
            if name not in own and name in WITHOUT_EFFECT:
                continue
            if name not in own and name in REFUSED and (not value or value == _NEUTRAL.get(name)):
                continue
            kept[name] = value
        return kept


class CompletionRequest(TextRequest):
    """A text to continue."""

    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=128)]
        | Annotated[list[Id], Field(min_length=1)]
        | Annotated[list[Annotated[list[Id], Field(min_length=1)]], Field(min_length=1, max_length=128)]
    )
    """A text, tokens, or several of either."""
    max_tokens: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Default: 200."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Tell of each token how likely, deep and sure it is, and this many of the likeliest in its place."""
    echo: bool | None = None
    """Begin with the prompt."""


class Part(Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: Annotated[str, Field(min_length=1)]


class Asked(Strict):
    """What the model is told or asked."""

    role: Literal["system", "developer", "user"]
    content: Annotated[str, Field(min_length=1)] | Annotated[list[Part], Field(min_length=1)]
    name: str | None = None
    """Accepted, without effect."""


class AnsweredBefore(Strict):
    """What the model said before."""

    role: Literal["assistant"]
    content: str | list[Part] | None = None
    name: str | None = None
    """Accepted, without effect."""
    refusal: str | None = None
    """Accepted, without effect."""


Message = Annotated[Asked | AnsweredBefore, Field(discriminator="role")]


def text_of(message: Asked | AnsweredBefore) -> str:
    """What a message says."""
    said = message.content or ""
    return said if isinstance(said, str) else "".join(part.text for part in said)


class ChatRequest(TextRequest):
    """A conversation to answer."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    """Oldest first."""
    max_tokens: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Default: 300."""
    max_completion_tokens: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """The same."""
    logprobs: bool | None = None
    """Tell of each token how likely, deep and sure it is."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """And this many of the likeliest in its place."""
    natural: bool | Annotated[int, Field(ge=0, le=10**9)] | None = None
    """End with a sentence, true: once 80 characters are written; default: unless the model learned from questions."""


Finish = Literal["stop", "length"]
End = Literal["end", "stop", "sentence", "length", "deadline", "stopped"]


class PromptDetails(BaseModel):
    """What the prompts took."""

    cached_tokens: int
    """Tokens that an earlier request had left in a cache: no segment was computed for them."""


class Usage(BaseModel):
    """What a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    segments: int
    """Segments that were computed, over all tokens: the prompt's and those written."""
    flops: float
    """Floating-point operations of these."""


class Answered(BaseModel):
    """What every answer begins with."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    """The checkpoint."""
    seed: int
    """With which the same request draws the same text."""


class CompletionLogprobs(BaseModel):
    """Of each token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None = None
    text_offset: list[int]
    depth: list[int]
    """Segments it was thought about."""
    confidence: list[float]
    """The Q head's probability of halting."""
    entropy: list[float]
    """Of all tokens in its place, in nats."""


class CompletionChoice(BaseModel):
    """One text."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Finish | None = None
    end: End | None = None
    """Why it ends: the model's own end, a stop word, a sentence, the length, the deadline, or the server's end."""


class CompletionAnswer(Answered):
    """Texts, or a part of them."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that was written."""

    top_logprobs: list[TopLogprob]
    depth: int
    """Segments it was thought about."""
    confidence: float
    """The Q head's probability of halting."""
    entropy: float
    """Of all tokens in its place, in nats."""


class ChatLogprobs(BaseModel):
    """Of each token."""

    content: list[TokenLogprob]
    refusal: None = None


class Said(BaseModel):
    """An answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: Said
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish
    end: End


class ChatAnswer(Answered):
    """Answers to a conversation."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage


class Delta(BaseModel):
    """What is new."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    """A piece of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None
    end: End | None = None


class ChatChunk(Answered):
    """A piece of a stream."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
