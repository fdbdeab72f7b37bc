"""A recipe that cannot be followed is refused in a sentence before anything is read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from hrm.files.reading import UserError
from hrm.text.data.clean.contamination import Index
from hrm.text.data.clean.plan import Plan
from hrm.text.data.clean.recipe import Recipe

SOURCE = "sources: [{name: a, path: a.txt}]\n"


def recipe(folder: Path, text: str) -> Recipe:
    (folder / "a.txt").write_text("text")
    (folder / "recipe.yaml").write_text(text)
    return Recipe.read(folder / "recipe.yaml")


def test_written_and_read_back(tmp_path: Path) -> None:
    first = recipe(tmp_path, SOURCE + "filters: {c4: false, gopher_quality: {min_doc_words: 7}}\ndeduplicate: true\n")
    assert first.filters.c4 is None
    assert first.filters.gopher_quality is not None and first.filters.gopher_quality.min_doc_words == 7
    assert first.sources[0].path == str(tmp_path / "a.txt")  # found beside the recipe
    (tmp_path / "again.yaml").write_text(first.yaml())
    assert Recipe.read(tmp_path / "again.yaml") == first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pii: true", "names no sources"),
        (SOURCE + "filter: {}", "unknown key 'filter'; did you mean 'filters'"),
        (SOURCE + "filters: {c4: {min_sentences: 3}}", "unknown key 'filters.c4.min_sentences'"),
        (SOURCE + "filters: {gopher_quality: {max_symbol_word_ratio: 2}}", "max_symbol_word_ratio' must be at least 0"),
        (SOURCE + "holdout: 1", "'holdout' must be at least 0 and below 1"),
        (SOURCE + "pii: 1", "'pii' must be on or off, not 1"),
        (SOURCE + "language: {model: lid.bin}", "nothing is downloaded"),
        (SOURCE + "decontaminate: {files: [test.jsonl]}", "there is no file test.jsonl"),
        (SOURCE + "tokenizer: bpe:many", "bpe:N"),
        (SOURCE + "tokenizer: bpe:1", "tokenizer 'bpe:1' must be bpe:N with N at least 257 and at most 1,000,000"),
        (SOURCE + "tokenizer: bpe:99999999999999999999", "tokenizer 'bpe:99999999999999999999' must be bpe:N"),
        ("sources: [{name: a, path: a.txt, weight: 1.e-300}]", "weight' must be at least 1e-06"),
        ("sources: [{name: Corpus.json, path: a.txt}]", "'Corpus.json' is a file of every corpus"),
        ("sources: [{name: a, path: a.txt}, {name: A, path: a.txt}]", "comes twice"),
        ("sources: [{name: a, path: a.txt, weight: 1}, {name: b, path: a.txt}]", "b has none"),
        ("sources: [{name: ../a, path: a.txt}]", "a name that a folder can have"),
        ("sources: [{name: a}]", "needs either a path or a hub"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        recipe(tmp_path, text)


def test_files_that_cannot_be_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("text")
    with pytest.raises(UserError, match=r"a\.pdf cannot be read as text"):
        Plan.make(recipe(tmp_path, "sources: [{name: a, path: '*.pdf'}]"), tmp_path, 1)
    with pytest.raises(UserError, match="there is no file"):
        Plan.make(recipe(tmp_path, "sources: [{name: a, path: none}]"), tmp_path, 1)


def test_files_are_shared_out_in_the_order_of_the_sources(tmp_path: Path) -> None:
    for name in ("b1.txt", "b2.txt", "b3.txt"):
        (tmp_path / name).write_text("text")
    made = recipe(tmp_path, "sources: [{name: b, path: 'b*.txt'}, {name: a, path: a.txt}]")
    shares = [
        (source.name, files[number::count]) for source, files, number, count in Plan.make(made, tmp_path, 2).shares
    ]
    b1, b2, b3 = (str(tmp_path / name) for name in ("b1.txt", "b2.txt", "b3.txt"))
    assert shares == [("b", [b1, b3]), ("b", [b2]), ("a", [str(tmp_path / "a.txt")])]


def test_another_recipe_does_not_go_on_with_this_work(tmp_path: Path) -> None:
    work = tmp_path / "work"
    Plan.make(recipe(tmp_path, SOURCE), work, 1).begin()
    Plan.make(Recipe.read(tmp_path / "recipe.yaml"), work, 1).begin()
    with pytest.raises(UserError, match="pii changed since"):
        Plan.make(Recipe.read(_changed(tmp_path, SOURCE + "pii: false")), work, 1).begin()


def test_changed_files_beside_the_sources_are_noticed(tmp_path: Path) -> None:
    for name in ("eval.txt", "lid.bin", "spelling.json", "folder/vocab.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    beside = "decontaminate: {files: [eval.txt]}\nlanguage: {model: lid.bin}\ntokenizer: "
    for tokenizer, names in (("spelling.json", ["eval.txt", "lid.bin", "spelling.json"]), ("folder", ["vocab.json"])):
        plan = Plan.make(recipe(tmp_path, SOURCE + beside + tokenizer), tmp_path / f"{tokenizer}.work", 1)
        plan.begin()
        for path in (path for name in names for path in tmp_path.rglob(name)):
            path.write_text("newer")
            with pytest.raises(UserError, match=rf"the file {path} changed since"):
                plan.begin()
            (plan.work / "plan.json").unlink()
            plan.begin()


def test_brackets_in_the_names_of_files(tmp_path: Path) -> None:
    for name in ("w[1].jsonl", "w1.jsonl", "x1.jsonl"):
        (tmp_path / "p[1]" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "p[1]" / name).write_text("{}")

    def files(path: str) -> list[str]:
        made = recipe(tmp_path / "p[1]", f"sources: [{{name: a, path: '{path}'}}]")
        return [Path(file).name for _, found, _, _ in Plan.make(made, tmp_path / "work", 1).shares for file in found]

    assert files("w[1].jsonl") == ["w[1].jsonl"]  # and not w1.jsonl, which it matches
    assert files("x[1].jsonl") == ["x1.jsonl"]
    assert files("*1.jsonl") == ["w1.jsonl", "x1.jsonl"]


def _changed(folder: Path, text: str) -> Path:
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


def test_text_of_an_evaluation_is_found(tmp_path: Path) -> None:
    question = "Which of the seven hills of the old town was built upon first, and by whom was it named?"
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": question, "choices": ["yes", "no"], "id": 3}))
    (tmp_path / "more.csv").write_text("q,a\nHow many rivers meet below the bridge of sighs,7\n")
    index = Index([str(tmp_path / "test.jsonl"), str(tmp_path / "more.csv")], n_grams=13, shortest=8)
    assert (index.texts, index.skipped) == (2, 5)  # yes, no, q, a, 7
    assert index.find("It says: WHICH of the seven hills, of the old town, was built upon first and by") == str(
        tmp_path / "test.jsonl"
    )
    assert index.find("they ask how many rivers meet below the bridge of sighs today") == str(tmp_path / "more.csv")
    assert index.find("Which of the seven hills of the old town was built upon last") is None  # twelve words
    assert index.find("yes") is None and index.find("") is None


def test_a_long_passage_of_an_evaluation(tmp_path: Path) -> None:
    passage = " ".join(f"word{number}" for number in range(20_000))
    (tmp_path / "long.csv").write_text(f"id,passage\n1,{passage}\n")
    assert Index([str(tmp_path / "long.csv")], n_grams=13, shortest=8).find(passage[-500:])


def _archive(path: Path, records: list[tuple[str, str, bytes, str]]) -> None:
    """A WARC file: type, address, content and content type of each record."""
    with gzip.open(path, "wb") as file:
        for kind, address, content, form in records:
            if kind == "response":
                content = f"HTTP/1.0 200 OK\r\nContent-Type: {form}\r\n\r\n".encode() + content
            about = {"WARC-Type": kind, "WARC-Target-URI": address, "Content-Length": len(content)}
            about["Content-Type"] = "application/http; msgtype=response" if kind == "response" else "text/plain"
            file.write(b"WARC/1.0\r\n" + "".join(f"{key}: {value}\r\n" for key, value in about.items()).encode())
            file.write(b"\r\n" + content + b"\r\n\r\n")


def test_records(tmp_path: Path) -> None:
    pytest.importorskip("warcio")
    pytest.importorskip("datatrove")
    from hrm.text.data.clean.read import records

    _archive(tmp_path / "a.warc.gz", [
        ("warcinfo", "http://a/info", b"software: x", ""),
        ("response", "http://a/1", "<p>Grüße</p>".encode("latin-1"), "text/html; charset=iso-8859-1"),
        ("response", "http://a/2", b"\x89PNG", "image/png"),
        ("conversion", "http://a/3", "Plain text, größer.".encode(), ""),
    ])  # fmt: skip
    found = list(records(tmp_path / "a.warc.gz"))
    assert found == [("http://a/1", "<p>Grüße</p>"), ("http://a/3", "Plain text, größer.")]


@pytest.mark.parametrize("cut", [False, True])
def test_a_document_that_stays_keeps_its_lines_unless_they_are_to_be_cut(tmp_path: Path, cut: bool):
    pytest.importorskip("datatrove")
    pytest.importorskip("spacy")
    from datatrove.data import Document  # pyright: ignore[reportMissingImports]

    from hrm.text.data.clean import steps

    rules = recipe(tmp_path, f"{SOURCE}filters: {{c4: {{cut_lines: {str(cut).lower()}}}}}\n").filters.c4
    line = "The Lory said that it was very late indeed."
    text = f"{line}\nyou speak?”\n\n    {line}\n{line}\nUse of cookies is explained in our cookie policy."
    document = Document(text, "one")
    assert steps.ByLine(**vars(rules)).filter(document) is True
    assert document.text == ("\n".join([line] * 3) if cut else text)
