"""Files made to hurt get one clear answer, soon."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from runner.config import Code, ConfigInvalid, load, loads


def _alias_bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]
    return "\n".join(lines)


def _tall_aliases() -> str:
    lines = ["a0: &a0 " + "[" * 40 + "]" * 40]
    lines += [f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, 2000)]
    return "\n".join(lines)


HOSTILE = {
    "alias bomb": (_alias_bomb(), Code.TOO_MANY_VALUES),
    "2,000 levels of lists": ("mappings: " + "[" * 2000, Code.NESTED_TOO_DEEP),
    "2,000 levels of mappings": ("mappings: " + "{a: " * 2000 + "}" * 2000, Code.NESTED_TOO_DEEP),
    "2,000 levels of blocks": ("\n".join([" " * level + "a:" for level in range(1400)]), Code.NESTED_TOO_DEEP),
    "a million levels": ("[" * (1 << 20), Code.NESTED_TOO_DEEP),
    "levels behind aliases": (_tall_aliases(), Code.NESTED_TOO_DEEP),
    "2 MiB": ("# a comment\n" * (2 * (1 << 20) // 12), Code.FILE_TOO_LARGE),
    "many values": ("[" + "a," * 500_000 + "]", Code.TOO_MANY_VALUES),
    "a duplicate key": ("functions: {}\nmappings: {}\nmappings: {}\n", Code.DUPLICATE_KEY),
    "an endless number": ("functions: {}\nmappings: {}\nlimits: {concurrency: " + "9" * 5000 + "}", Code.OUT_OF_RANGE),
    "a tag that runs code": ("functions: {}\nmappings: !!python/object/apply:os.abort []\n", Code.TAG),
    "a long line that almost names a secret": ("password" * 100_000 + ": x: y", Code.YAML_SYNTAX),
    "a merge key": ("functions: {}\nmappings: {}\n<<: {admin: {}}\n", Code.MERGE_KEY),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_one_line_in_under_a_second(name: str, tmp_path: Path) -> None:
    text, code = HOSTILE[name]
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    began = time.process_time()
    with pytest.raises(ConfigInvalid) as raised:
        load(path, {})
    assert time.process_time() - began < 1
    (error,) = raised.value.errors
    assert error.code == code
    assert "\n" not in str(error)
    assert len(error.render().splitlines()) <= 5
    assert len(error.render()) < 1000


def test_a_thousand_mistakes_in_one_line_cost_little() -> None:
    mistakes = ", ".join([f"k{number}: [1], j{number}: '${{X{number}}} x'" for number in range(5000)])
    began = time.process_time()
    with pytest.raises(ConfigInvalid) as raised:
        loads(f"functions: {{a: {{http: {{headers: {{{mistakes}}}}}}}}}", name="config.yaml", environ={})
    raised.value.render()
    assert len(raised.value.errors) > 10_000
    assert time.process_time() - began < 10


def test_what_a_variable_holds_is_never_yaml() -> None:
    text = "functions: {f: {python: {handler: a.b}}}\nmappings: {m: {function: '${NAME}', source: {file: {path: x}}}}"
    with pytest.raises(ConfigInvalid) as raised:
        loads(text, name="config.yaml", environ={"NAME": "f\nenabled: false\n\x1b[31m"})
    (error,) = raised.value.errors
    assert (error.line, error.column, error.code) == (2, 26, Code.MALFORMED)
    assert "\x1b" not in error.render()
    assert "enabled" not in error.render()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\xff\xfe\x00", Code.NOT_UTF8),
        ("functions: {}".encode("utf-16"), Code.NOT_UTF8),
        (b"functions: \xc3\x28", Code.NOT_UTF8),
        (b"", Code.EMPTY),
        (b"\xef\xbb\xbf", Code.EMPTY),
        (None, Code.FILE_UNREADABLE),
    ],
)
def test_a_file_that_cannot_be_used(content: bytes | None, code: Code, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigInvalid) as raised:
        load(path, {})
    (error,) = raised.value.errors
    assert error.code == code
    assert error.hint
    assert str(path) in str(error)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        load(tmp_path, {})
    assert [error.code for error in raised.value.errors] == [Code.FILE_UNREADABLE]


def test_a_pipe_behind_an_expression_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigInvalid) as raised:
        loads(f"functions: {{}}\nmappings: '${{file:{tmp_path}/pipe}}'", name="c", environ={})
    assert [error.code for error in raised.value.errors] == [Code.WRONG_TYPE]
    with pytest.raises(ConfigInvalid) as raised:
        loads(f"functions: {{}}\nmappings: {{}}\nadmin: {{listen: '${{file:{tmp_path}/pipe}}'}}", name="c", environ={})
    assert [error.code for error in raised.value.errors] == [Code.INTERPOLATED_FILE_UNREADABLE]
