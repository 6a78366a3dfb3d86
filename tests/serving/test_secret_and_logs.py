"""Secrets never show: by type, by name, by shape."""

import copy
import io
import json
import logging
import pickle
from collections.abc import Iterator

import pytest
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from serving.logs import LogLevel, configure_logs
from serving.secret import REDACTED, Secret

VALUE = "s3cr3t-value"


class Holder(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    key: Secret


@pytest.mark.parametrize(
    "show",
    [
        pytest.param(repr, id="repr"),
        pytest.param(str, id="str"),
        pytest.param(lambda s: f"{s}", id="an f-string"),
        pytest.param(lambda s: f"{s!r:>30}", id="an f-string with a width"),
        pytest.param(lambda s: "{}".format(s), id="str.format"),  # noqa: UP032  # what is tested
        pytest.param(lambda s: str([s, {"a": s}]), id="inside containers"),
        pytest.param(lambda s: str(Holder(key=s)), id="a model's repr"),
        pytest.param(lambda s: Holder(key=s).model_dump_json(), id="a model as JSON"),
        pytest.param(lambda s: str(Holder(key=s).model_dump()), id="a model as a dict"),
        pytest.param(lambda s: str(copy.deepcopy(s)), id="a copy"),
    ],
)
def test_a_secret_shows_only_that_it_is_one(show: object) -> None:
    shown = show(Secret(VALUE))  # type: ignore[operator]
    assert REDACTED in shown
    assert VALUE not in shown


def test_a_secret_is_compared_by_value_and_never_equal_to_text() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert Secret("a").matches("a")
    assert Secret("ä").matches("ä".encode())
    assert not Secret("a").matches("A")
    assert not Secret("")


def test_a_secret_refuses_to_be_pickled() -> None:
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Secret(VALUE))


def test_a_model_takes_a_secret_from_text_and_gives_it_only_when_asked() -> None:
    held = Holder.model_validate_json(json.dumps({"key": VALUE}))
    assert held.key.reveal() == VALUE
    assert held.model_dump(context={"reveal": True}) == {"key": VALUE}
    assert Holder.model_json_schema()["properties"]["key"] == {"title": "Key", "type": "string", "writeOnly": True}


def test_a_model_does_not_show_a_secret_of_the_wrong_type_as_a_secret() -> None:
    with pytest.raises(ValidationError):
        Holder.model_validate({"key": 5})


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    configure_logs("testing", level=LogLevel.INFO, stream=out)
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"key": Secret(VALUE)}, {"key": REDACTED}, id="a Secret under any name"),
        pytest.param({"a": [{"b": Secret(VALUE)}]}, {"a": [{"b": REDACTED}]}, id="a Secret deep inside"),
        pytest.param({"authorization": VALUE}, {"authorization": REDACTED}, id="a field named authorization"),
        pytest.param({"h": {"Set-Cookie": VALUE}}, {"h": {"Set-Cookie": REDACTED}}, id="a header named set-cookie"),
        pytest.param({"x-api-key": VALUE}, {"x-api-key": REDACTED}, id="a field named x-api-key"),
        pytest.param({"tokens": 5}, {"tokens": 5}, id="a number of tokens is no secret"),
        pytest.param(
            {"url": f"redis://user:{VALUE}@host/0"}, {"url": f"redis://user:{REDACTED}@host/0"}, id="a URL's password"
        ),
        pytest.param({"h": f"Bearer {VALUE}"}, {"h": f"Bearer {REDACTED}"}, id="a bearer token in a string"),
        pytest.param({"t": "got eyJhbGciOi.eyJzdWIiOi.c2ln"}, {"t": f"got {REDACTED}"}, id="a JWT in a string"),
        pytest.param({"body": VALUE.encode()}, {"body": "12 bytes"}, id="bytes are counted, not shown"),
        pytest.param({"n": 1, "ok": True, "none": None}, {"n": 1, "ok": True, "none": None}, id="plain values"),
    ],
)
def test_a_log_line_holds_no_secret(lines: io.StringIO, fields: dict[str, object], expected: dict[str, object]) -> None:
    structlog.get_logger("x").info("happened", **fields)
    line = json.loads(lines.getvalue())
    assert VALUE not in lines.getvalue()
    assert {name: line[name] for name in expected} == expected
    assert (line["event"], line["level"], line["process"]) == ("happened", "info", "testing")


def test_an_exception_is_logged_without_local_variables_and_redacted(lines: io.StringIO) -> None:
    def fail() -> None:
        hidden = VALUE  # noqa: F841  # what a traceback with locals would show
        raise RuntimeError("cannot reach redis://u:pw-in-url@host")

    try:
        fail()
    except RuntimeError:
        structlog.get_logger("x").exception("failed")
    line = json.loads(lines.getvalue())
    assert "RuntimeError" in line["exception"]
    assert VALUE not in line["exception"]
    assert "pw-in-url" not in line["exception"]


def test_the_standard_library_s_loggers_write_the_same_lines(lines: io.StringIO) -> None:
    logging.getLogger("somebody.else").warning("with %s", "Bearer abcdefghij")
    logging.getLogger("somebody.else").debug("below the level")
    line = json.loads(lines.getvalue())
    assert (line["event"], line["level"], line["process"]) == (f"with Bearer {REDACTED}", "warning", "testing")
