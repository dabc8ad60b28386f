"""Untrusted documents: whatever a file is or contains, one sentence states the error, at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mask2former import documents, limits
from mask2former.errors import UserError


def _folder(path: Path) -> None:
    path.mkdir()


def _circle(path: Path) -> None:
    path.symlink_to(path.name)


def _huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(limits.JSON_BYTES + 1)  # sparse: takes no disk space


NOT_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: None, "there is no run file"),
    "folder": (_folder, "is a folder; expected a regular file"),
    "pipe": (os.mkfifo, "is a pipe; expected a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device; expected a regular file"),
    "circle": (_circle, "cannot be read: Too many levels of symbolic links"),
    "too large": (_huge, "has too many bytes: .*; at most .* are supported"),
    "below a file": (lambda path: None, "there is no run file"),
    "zero byte": (lambda path: None, "there is no run file"),
    "no UTF-8": (lambda path: path.write_bytes(b"\xff\xfd"), "UTF-8|is not JSON"),
}
READERS = (documents.read_text, documents.read_json, documents.read_yaml, documents.read_rows)


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize("name", NOT_FILES)
def test_what_is_no_document_is_refused_at_once(tmp_path: Path, name: str, read: Callable[[Path, str], object]) -> None:
    make, message = NOT_FILES[name]
    path = {"below a file": Path(__file__) / "x", "zero byte": Path("a\0b")}.get(name, tmp_path / "x")
    make(path)
    with pytest.raises(UserError, match=message) as caught:
        read(path, "run file")
    assert "\n" not in str(caught.value)


def test_links_are_followed_and_byte_order_marks_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('\ufeff{"k": [1, "ü"]}', encoding="utf-8")
    (tmp_path / "b").symlink_to("a")
    assert documents.read_json(tmp_path / "b", "file") == {"k": [1, "ü"]}
    assert documents.read_yaml(tmp_path / "b", "file") == {"k": [1, "ü"]}
    assert documents.read_text(tmp_path / "b", "file") == '{"k": [1, "ü"]}'
    assert documents.check_regular(tmp_path / "b", "file") == (tmp_path / "a").stat().st_size


def test_files_in_archives_are_bounded_by_what_they_say(tmp_path: Path) -> None:
    class Archived:
        num_bytes = limits.TEXT_BYTES + 1

        def read_bytes(self) -> bytes:
            raise AssertionError

    with pytest.raises(UserError, match="has too many bytes"):
        documents.read_text(Archived(), "list")


JSON = {
    "nested": ("[" * 100_000, "nested too deeply"),
    "nested objects": ('{"a":' * 100_000, "nested too deeply"),
    "long number": ("9" * 5_000, "not JSON"),
    "cut short": ('{"a": [1, 2', "not JSON, or is cut short"),
    "empty": ("", "not JSON"),
    "two values": ("{} {}", "not JSON"),
    "names of 1 MB": ('{"' + "a" * (1 << 20) + "\n", "not JSON"),
}


@pytest.mark.parametrize("name", JSON)
def test_broken_json_is_refused(name: str) -> None:
    text, message = JSON[name]
    with pytest.raises(UserError, match=message) as caught:
        documents.parse_json(text, "'a.json'")
    assert len(str(caught.value)) < 400


NESTED = {
    "arrays": "[" * 99 + "{0}" + "]" * 99,
    "objects": '{{"a":' * 99 + "{0}" + "}}" * 99,
    "after others": "[" + "[[]]," * 600_000 + "[" * 98 + "{0}" + "]" * 99,  # in the second block that is counted
    "after texts": "[" * 98 + r'["]", "\\", "\"]", "\\\"]", "\n\\", {0}]' + "]" * 98,
}


@pytest.mark.parametrize(
    "encode", [str, str.encode, lambda text: text.encode("utf-16"), lambda text: text.encode("utf-32-be")]
)
@pytest.mark.parametrize("name", NESTED)
def test_the_depth_of_json_is_limited_whatever_python_reads(name: str, encode: Callable[[str], bytes | str]) -> None:
    documents.parse_json(encode(NESTED[name].format("[]")), "'a.json'")
    message = r"^'a.json' is nested too deeply; levels: 101; at most 100 are supported; is it the right file\?$"
    with pytest.raises(UserError, match=message):
        documents.parse_json(encode(NESTED[name].format("[{}]")), "'a.json'")


@pytest.mark.parametrize("text", ["[[[", r"\"[\\\"[", "\u2222\u5b5b[\ud800", "]]]}}}"])
def test_brackets_in_texts_are_no_levels(text: str) -> None:
    value = [{text: [text, ""]} for _ in range(200)]
    for ascii_only in (False, True):
        written = json.dumps(value, ensure_ascii=ascii_only)
        assert documents.parse_json(written, "it") == value
        assert documents.parse_json(written.encode("utf-16", "surrogatepass"), "it") == value


def test_pairs_may_refuse() -> None:
    def refuse(pairs: list[tuple[str, object]]) -> None:
        raise UserError(f"{len(pairs)} pairs")

    with pytest.raises(UserError, match=r"^2 pairs$"):
        documents.parse_json('{"a": 1, "a": 2}', "it", refuse)


def _laughs(levels: int, merge: bool) -> str:
    lines = ["a0: &a0 {x: 1, y: 2}" if merge else "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        before = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} " + ("{<<: [" + before + "]}" if merge else f"[{before}]"))
    return "\n".join(lines)


YAML = {
    "a key twice": (
        "a: 1\nb: 2\na: 3\n",
        "'a.yaml' is not valid YAML: it contains 'a' more than once in a mapping, again in line 3",
    ),
    "a number twice": ("names: {0: cell, 00: dirt}", "it contains 0 more than once"),
    "a key of a merged mapping twice": ("a: &a {k: 1}\nb: {<<: *a, c: {k: 1, k: 2}}", "it contains 'k' more than once"),
    "aliases": (_laughs(30, merge=False), "has too many values, with those that aliases repeat"),
    "merges": (_laughs(30, merge=True), "has too many values, with those that aliases repeat"),
    "itself": ("a: &a [*a]", "a value contains itself"),
    "itself as key": ("&a {*a : 1}", "a value contains itself"),
    "nested": ("[" * 20_000, "nested too deeply"),
    "nested in blocks": ("- " * 20_000, "nested too deeply"),
    "python": ("!!python/object/apply:os.system [id]", "not valid YAML"),
    "no date": ("a: 2024-13-45", "not valid YAML"),
    "no number": ("a: !!int x", "not valid YAML"),
    "list as key": ("? [1, 2]\n: 3", "not valid YAML"),
    "number of 60s": ("a: 1" + ":1" * 200_000, "a number has"),
    "long number": ("a: " + "9" * 100_000, "a number has"),
    "hexadecimal": ("a: 0x" + "f" * 100_000, "a number has"),
    "control characters": ("a: \x01", "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "not valid YAML"),
    "too long": ("a" * (limits.YAML_BYTES + 1), "has too many characters"),
    "unknown alias": ("a: *b", "not valid YAML"),
}


@pytest.mark.parametrize("name", YAML)
def test_hostile_yaml_is_refused(name: str) -> None:
    text, message = YAML[name]
    with pytest.raises(UserError, match=message) as caught:
        documents.parse_yaml(text, "'a.yaml'")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "# nothing", "null", "a: 1", "a: &x [1, 2]\nb: *x", "1:30:00", "0x1F", "1e3", "=: 1\n+: 2"]
)
def test_other_yaml_is_read_as_ever(text: str) -> None:
    assert documents.parse_yaml(text, "it") == yaml.safe_load(text)


def test_aliases_are_counted_in_time_of_what_is_written() -> None:
    """Values that aliases repeat, 2^60 here, are counted without visiting them one by one, and refused."""
    text = "a0: &a0 [x, x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))
    with pytest.raises(UserError, match=re.escape(f"at most {limits.YAML_NODES:,}")):
        documents.parse_yaml(text, "it")


def test_rows_have_the_names_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'step,loss\r\n0,"1,5"\r\n1\r\n\r\n2,3,4,5\r\n3,')
    assert documents.read_rows(path, "table") == [
        {"step": "0", "loss": "1,5"},
        {"step": "1", "loss": None},
        {"step": "2", "loss": "3", "": ["4", "5"]},
    ]
    for empty in (b"", b"\n", b"step"):
        path.write_bytes(empty)
        assert documents.read_rows(path, "table") == []


def test_a_quote_that_is_not_closed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('step,loss\n0,"' + "x\n" * 100_000)
    with pytest.raises(UserError, match=r"the table '.*a\.csv' is not CSV: field larger than field limit"):
        documents.read_rows(tmp_path / "a.csv", "table")


def test_large_documents_are_read_as_fast_as_the_parsers_are(tmp_path: Path) -> None:
    values = [{"id": index, "name": f"class {index}"} for index in range(20_000)]
    (tmp_path / "a.json").write_text(json.dumps(values))
    assert documents.read_json(tmp_path / "a.json", "file") == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<a>", "is not XML, or is cut short"),
        ("", "is not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "declares a document type"),
        ('<a><!ENTITY b SYSTEM "file:///etc/passwd"></a>', "declares a document type"),
        ("<a>&b;</a>", "is not XML"),
        ("<a>" * 100_000, "is not XML"),
    ],
)
def test_xml_that_is_none_or_defines_more_of_itself_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        documents.parse_xml(text, "the file 'a.xml'")


def test_xml_is_a_root_with_its_children() -> None:
    assert [
        child.tag for child in documents.parse_xml('<?xml version="1.0" encoding="utf-16"?><a><b/><c/></a>', "it")
    ] == [
        "b",
        "c",
    ]


def test_what_is_written_is_json_that_every_reader_takes() -> None:
    values = {"a": [1, 2.5], "é": None}
    assert documents.encode_json(values) == '{"a": [1, 2.5], "\\u00e9": null}'
    assert documents.encode_json(values, compact=True) == '{"a":[1,2.5],"\\u00e9":null}'
    assert documents.parse_json(documents.encode_json(values, indent=1), "it") == values
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            documents.encode_json([value])
