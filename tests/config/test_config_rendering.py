"""How mistakes look."""

from __future__ import annotations

import re

import pytest

from runner.config import Code, ConfigInvalid, Diagnostic, loads, render

MAPPING = "mappings: {m: {function: f, source: {file: {path: x}}}}\n"
FUNCTION = "functions: {f: {http: {url: https://x/, "


def invalid(text: str) -> ConfigInvalid:
    with pytest.raises(ConfigInvalid) as raised:
        loads(text, name="config.yaml", environ={})
    return raised.value


def test_an_error_shows_its_place_and_what_to_do() -> None:
    error = invalid(f"functions: {{f: {{python: {{handler: a.b}}}}}}\n{MAPPING}limts: {{}}\n")
    assert error.render() == (
        "config.yaml:3:1: error[E103]: unknown key 'limts' in the file\n"
        "   |\n"
        " 3 | limts: {}\n"
        "   | ^^^^^\n"
        "   = help: did you mean 'limits'?\n"
        "\n"
        "1 error"
    )
    assert str(error) == "config.yaml:3:1: error[E103]: unknown key 'limts' in the file"


def test_colour_changes_nothing_else() -> None:
    error = invalid("functions: {}\nmappings: {}\nlimts: {}\n")
    assert error.summary == "1 error, 1 warning"
    assert "\x1b[" not in error.render()
    assert "\x1b[" in error.render(colour=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", error.render(colour=True)) == error.render()


def test_errors_and_warnings_are_told_in_the_order_of_the_file() -> None:
    error = invalid("mappings: {}\nlimts: {}\nfunctions: {f: {python: {handler: a.b}}}\nadmn: {}\n")
    assert [each.code for each in error.errors] == [Code.UNKNOWN_KEY, Code.UNKNOWN_KEY]
    places = re.findall(r"^config\.yaml:(\d+)", error.render(), re.MULTILINE)
    assert places == ["1", "2", "3", "4"]


def test_a_file_as_a_whole_has_no_line() -> None:
    assert str(invalid("")) == "config.yaml: error[E004]: the file is empty"


def test_warnings_render_too() -> None:
    warning = Diagnostic("c.yaml", 12, 3, Code.NO_MAPPINGS, "there are none", "add one", "  mappings: {}", 2, 8)
    assert (
        render([warning, warning]).count("c.yaml:12:3: warning[W408]: there are none\n    |\n 12 |   mappings: {}\n")
        == 2
    )


@pytest.mark.parametrize(
    "text",
    [
        f"{FUNCTION}bearer_token: hunter2, timout: 3s}}}}}}\n{MAPPING}",
        f"{FUNCTION}bearer_token: 'hunter2${{NONE}}'}}}}}}\n{MAPPING}",
        f"{FUNCTION}bearer_token: '${{NONE:=hunter2}}'}}}}}}\n{MAPPING}",
        f'{FUNCTION}bearer_token: "hunter2\\n"}}}}}}\n{MAPPING}',
        f"{FUNCTION}bearer_tokn: hunter2}}}}}}\n{MAPPING}",
        f"{FUNCTION}bearer_token: a, bearer_token: hunter2}}}}}}\n{MAPPING}",
        f"{FUNCTION}headers: {{Authorization: hunter2, Host: a}}}}}}}}\n{MAPPING}",
        f"{FUNCTION}timeout: 1}}}}, password: hunter2}}\n{MAPPING}",
        f"functions: {{f: {{http: {{url: 'ftp://me:hunter2@x/'}}}}}}\n{MAPPING}",
        f"functions: {{f: {{http: {{url: 'http://me:hunter2@x/'}}}}}}\n{MAPPING}",
        f"functions:\n  f:\n    http: {{url: https://x/}}\n    auth: {{password: hunter2, user: u}}\n{MAPPING}",
        "functions:\n  password: hunter2: x\n",
        "functions:\n  f:\n    http:\n      url: https://x/\n      bearer_token: >\n        hunter2\n\tx: 1\n",
    ],
)
def test_no_secret_is_shown(text: str) -> None:
    error = invalid(text)
    assert "hunter2" in text
    assert "hunter2" not in error.render()
    assert "hunter2" not in str(error)


def test_a_long_line_is_cut_around_its_mistake() -> None:
    keys = ", ".join([f"k{number}: 1" for number in range(200)])
    for error in invalid(f"{{{keys}}}").errors:
        if error.code is Code.UNKNOWN_KEY:
            marked = error.excerpt[error.caret : error.caret + error.width]
            assert f"'{marked}'" in error.message
            assert len(error.excerpt) <= 120


def test_control_characters_reach_no_terminal() -> None:
    error = invalid(f'{FUNCTION}payload: "\\e[2J\\u202e"}}}}}}\n{MAPPING}')
    assert error.render().replace("\n", "").isprintable()
