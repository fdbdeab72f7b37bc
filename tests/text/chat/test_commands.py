"""Commands obey, say what is now the case, and refuse in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrm.files.reading import UserError
from hrm.text.chat import commands
from tests.text.chat.small import session


@pytest.fixture
def talk() -> commands.CommandContext:
    return commands.CommandContext(session())


@pytest.mark.parametrize(
    ("line", "said", "value"),
    [
        ("/temperature 0.5", "temperature 0.5", lambda s: s.sampling.temperature == 0.5),
        ("/temperature 2", "temperature 2", lambda s: s.sampling.temperature == 2.0),
        ("/top-k 7", "top-k 7", lambda s: s.sampling.top_k == 7),
        ("/top_p 0.9", "top-p 0.9", lambda s: s.sampling.top_p == 0.9),
        ("/repetition-penalty 1.2", "repetition-penalty 1.2", lambda s: s.sampling.repetition_penalty == 1.2),
        ("/greedy off", "greedy off", lambda s: not s.sampling.greedy),
        ("/seed 9", "seed 9", lambda s: s.sampling.seed == 9),
        ("/seed", "seed 0", lambda s: s.sampling.seed == 0),
        ("/seed 1234567890", "seed 1234567890", lambda s: s.sampling.seed == 1234567890),
        ("/max-new-tokens 3", "max-new-tokens 3", lambda s: s.sampling.max_new_tokens == 3),
        ("/min-characters 30", "min-characters 30", lambda s: s.min_characters == 30),
        ("/stop unlimited", "stop unlimited", lambda s: s.stop == "unlimited"),
        ("/trace on", "trace on", lambda s: s.trace),
        ("/debug on", "debug on", lambda s: s.debug),
        ("/mode auto", "mode auto: schedule 2x2, up to 3 segments, fewer where the Q head says so", lambda s: True),
    ],
)
def test_a_command_changes_a_setting_and_says_so(talk: commands.CommandContext, line: str, said: str, value):
    assert commands.run(talk, line) == said
    assert value(talk.session.settings)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/temprature 1", "no command '/temprature'; did you mean '/temperature'?"),
        ("/zzz", "no command '/zzz'; see /help"),
        ("/", "no command '/'"),
        ("/temperature hot", "/temperature must be a number, not 'hot'"),
        ("/temperature 0", "/temperature 0.0 draws nothing: it must be above 0"),
        ("/seed 99999999999999999999999", "/seed must be at least 0 and at most 9,223,372,036,854,775,807"),
        ("/" + "x" * 3000, "there is no command '/xxx"),
        ("/mode " + "x" * 3000, "there is no mode 'xxx"),
        ("/stop " + "x" * 3000, "an answer cannot stop by 'xxx"),
        ("/status " + "x" * 3000, "/status takes nothing after it, not 'xxx"),
        ("/top-p " + "x" * 3000, "/top-p must be a number, not 'xxx"),
        ("/top-k 1.5", "/top-k must be a whole number"),
        ("/greedy maybe", "/greedy must be on or off"),
        ("/mode deeper", "there is no mode 'deeper'; did you mean 'deep'?"),
        ("/stop later", "natural, length, unlimited"),
        ("/status now", "/status takes nothing after it"),
        ("/save", "/save needs FILE"),
        ("/load nowhere.json", "cannot be read"),
        ("/save nowhere/talk.json", "cannot be written"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_changes_nothing(talk: commands.CommandContext, line: str, words: str):
    before = talk.session.settings
    with pytest.raises(UserError) as error:
        commands.run(talk, line)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert talk.session.settings == before


def test_status_shows_model_mode_settings_and_memory(talk: commands.CommandContext):
    commands.run(talk, "/mode deep")
    commands.run(talk, "/top-k 4")
    talk.session.answer("the cat")
    text = commands.run(talk, "/status")
    for words in (
        "parameters",
        "deep: schedule 3x2, 1 segment",
        "top-k 4",
        "12 of 24 tokens",
        "2 messages",
        "cpu, float64",
    ):
        assert words in text, words


def test_help_names_every_command(talk: commands.CommandContext):
    text = commands.run(talk, "/help")
    assert all(f"/{name}" in text for name in commands.COMMANDS)


def test_clear_forgets_and_quit_ends(talk: commands.CommandContext):
    first = talk.session.answer("the cat").text
    commands.run(talk, "/clear")
    assert talk.session.remembered == 0 and talk.session.answer("the cat").text == first
    with pytest.raises(commands.Quit):
        commands.run(talk, "/quit")


def test_save_and_load(talk: commands.CommandContext, tmp_path: Path):
    file = tmp_path / "talk.json"
    answer = talk.session.answer("the cat").text
    assert commands.run(talk, f"/save {file}") == f"saved 2 messages in {file}"
    assert [m["content"] for m in json.loads(file.read_text("utf-8"))["messages"]] == ["the cat", answer]
    other = commands.CommandContext(session())
    assert commands.run(other, f"/load {file}") == f"the cat{answer}\nloaded 2 messages of {file}"
    assert other.session.answer("").text == talk.session.answer("").text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is no conversation"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 1, "talks": false, "forgotten": -1, "answers": 0, "messages": []}', "is damaged"),
        ('{"format": 1, "talks": false, "forgotten": 0, "answers": 0, "messages": [{"role": "x"}]}', "message 1"),
        ('{"format": 1, "talks": true, "forgotten": 0, "answers": 0, "messages": []}', "holds questions and answers"),
    ],
)
def test_a_file_that_is_none_changes_nothing(talk: commands.CommandContext, tmp_path: Path, content: str, words: str):
    talk.session.answer("the cat")
    before = talk.session.conversation.text
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=words):
        commands.run(talk, f"/load {tmp_path / 'x.json'}")
    assert talk.session.conversation.text == before


def test_two_slashes_begin_a_text():
    assert commands.is_command("/help") and not commands.is_command("//comment") and not commands.is_command("a/b")


def test_commands_and_their_words_are_completed():
    assert list(commands.complete("/mo")) == ["/mode", "/modes"]
    assert list(commands.complete("/mode ")) == [f"/mode {m}" for m in ("fast", "normal", "deep", "extreme", "auto")]
    assert list(commands.complete("/stop u")) == ["/stop unlimited"]
    assert list(commands.complete("/nothing x")) == []


def test_a_running_text_goes_on_in_a_new_line_and_needs_a_beginning(talk: commands.CommandContext):
    with pytest.raises(UserError, match="write a beginning"):
        talk.session.answer("")
    first = talk.session.answer("the cat").text
    more = talk.session.answer("").text
    talk.session.answer("the dog")
    assert talk.session.conversation.text.startswith(f"the cat{first}{more}\nthe dog")
    questions = session(talks=True)
    with pytest.raises(UserError, match="say something"):
        questions.answer("")


def test_other_names_of_commands_and_a_mode_without_its_slash():
    talk = commands.CommandContext(session())
    assert commands.run(talk, "/temp 0.5") == "temperature 0.5"
    assert commands.run(talk, "/unlimited") == "stop unlimited"
    assert commands.run(talk, "/interactive") == "stop natural"
    assert commands.is_command("mode deep") and commands.run(talk, "mode deep").startswith("mode deep")
    assert (
        not commands.is_command("mode of transport")
        and not commands.is_command("mode")
        and not commands.is_command("a mode deep")
    )
