"""The server is as its schema says, for requests as the schema has them and for others. The long version is
benchmarks/serve_campaign.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from hrm.serve.settings import Settings
from hrm.serve.waiting import Limits
from tests.serve.server import HEADERS, SETTINGS, app_of, running
from tests.text.chat import small

EXAMPLES = 20


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = small.saved(tmp_path_factory.mktemp("served") / "tiny", max_position_embeddings=4096)  # for any prompt
    allowed = Settings(SETTINGS.keys, most_tokens=4)
    with running(app_of({"tiny": folder}, allowed, limits=Limits(4, 20_000, seconds=2))) as address:
        yield address


def described(address: str, mode: GenerationMode = GenerationMode.NEGATIVE) -> Any:
    """The schema, with the one model that there is and the longest text that may be."""
    found = httpx.get(f"{address}/openapi.json", headers=HEADERS).json()
    for name in ("CompletionRequest", "ChatRequest"):
        fields = found["components"]["schemas"][name]["properties"]
        fields["model"] = {"enum": ["tiny"]}
        for length in {"max_tokens", "max_completion_tokens"} & fields.keys():
            fields[length] = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 4}, {"type": "null"}]}
    for kind in found["components"]["schemas"]["CompletionRequest"]["properties"]["prompt"]["anyOf"]:
        ids = kind.get("items", {}).get("items", kind.get("items", {}))
        if ids.get("type") == "integer":
            ids["maximum"] = 20  # of the model's vocabulary
    if mode == GenerationMode.POSITIVE:  # a conversation in which nobody has said a word is refused
        found["components"]["schemas"]["AnsweredBefore"]["properties"]["content"] = {"type": "string", "minLength": 1}
        found["components"]["schemas"]["AnsweredBefore"]["required"] = ["role", "content"]
    # A request may also be one that takes longer than it may.
    fine = {"expected-statuses": ["2xx", "401", "404", "408", "429"]}
    config = schemathesis.Config.from_dict({"checks": {"positive_data_acceptance": fine}})
    schema = schemathesis.openapi.from_dict(found, config=config)
    schema.config.update(base_url=address)
    return schema


@pytest.mark.slow
@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/solve"])
def test_answers_are_as_the_schema_says(address: str, path: str, mode: GenerationMode):
    @given(described(address, mode)[path]["POST"].as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
    def answered(case: Any) -> None:
        case.call_and_validate(headers=HEADERS)

    answered()


def test_the_schema_is_whole(address: str):
    """Every route has its errors, its key and, where there is one, its stream."""
    raw = described(address).raw_schema
    for path, methods in raw["paths"].items():
        for method, about in methods.items():
            assert about.get("security") == (None if path == "/health" else [{"HTTPBearer": []}]), path
            if path != "/health":
                assert {"200", "400", "401", "429", "503", "default"} <= about["responses"].keys()
            if method == "post":
                kinds = about["responses"]["200"]["content"].keys()
                assert "application/json" in kinds and {"text/event-stream", "application/x-ndjson"} & kinds
