"""Formats, how they are found out, and columns of other names."""

import pytest
from support.row_files import ROW_OF_FORMAT, write_rows

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.rows.turns import Turn

ANSWER = {"from": "gpt", "value": "yo"}
TURNS = {
    "alpaca": (Turn("user", "q", "c"), Turn("assistant", "a")),
    "text": (Turn("assistant", "a"),),
}


@pytest.fixture
def open_rows(tmp_path):
    def open_rows(*rows, **keys):
        path = write_rows(tmp_path / "x.jsonl", rows)
        return open_source(DataConfig(path=str(path), **keys))

    return open_rows


@pytest.mark.parametrize("name", ROW_OF_FORMAT)
@pytest.mark.parametrize("given", ["auto", None])
def test_each_format(open_rows, name, given):
    source = open_rows(ROW_OF_FORMAT[name], format=given or name)
    assert source[0].turns == TURNS.get(name, (Turn("user", "q"), Turn("assistant", "a")))
    assert source[0].is_plain == (name == "text")


def test_text_beside_other_fields_is_not_what_is_meant(open_rows):
    """As in `tatsu-lab/alpaca`, where it is the rendering of the others."""
    row = ROW_OF_FORMAT["alpaca"] | {"text": "all of it"}
    assert open_rows(row)[0].turns == TURNS["alpaca"]
    assert open_rows(row, format="text")[0].turns == (Turn("assistant", "all of it"),)
    assert open_rows(row, columns={"text": "text"})[0].is_plain


def test_two_formats_at_once_must_be_told_apart(open_rows):
    row = ROW_OF_FORMAT["prompt"] | ROW_OF_FORMAT["messages"]
    with pytest.raises(LopeError, match=r"messages and prompt .*data\.format"):
        open_rows(row)
    assert len(open_rows(row, format="prompt")) == 1


@pytest.mark.parametrize("name", ["auto", "alpaca"])
def test_columns(open_rows, name):
    row = {"question": "q", "instruction": "other", "answer": "a", "input": "c"}
    columns = {"instruction": "question", "output": "answer"}
    assert open_rows(row, format=name, columns=columns)[0].turns == TURNS["alpaca"]
    swapped = {"instruction": "output", "output": "instruction"}
    (user, assistant) = open_rows(ROW_OF_FORMAT["alpaca"], format=name, columns=swapped)[0].turns
    assert (user.text, assistant.text) == ("a", "q")
    source = open_rows({"input": "q", "output": "a"}, columns={"instruction": "input"})
    assert source[0].turns == (Turn("user", "q"), Turn("assistant", "a")), "no second use as input"
    chat = {"dialog": ROW_OF_FORMAT["sharegpt"]["conversations"]}
    assert len(open_rows(chat, columns={"conversations": "dialog"})) == 1


@pytest.mark.parametrize("field", ["output", "input"])
def test_a_mapped_column_that_is_absent_is_an_error(open_rows, field):
    """An optional one too: who maps it means it."""
    with pytest.raises(
        LopeError,
        match=rf"'{field}'.*'x' of data\.columns\).* input, inst",
    ):
        open_rows(ROW_OF_FORMAT["alpaca"], format="alpaca", columns={field: "x"})


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ([], "conversations.* {from, value}"),
        (["hi"], "message 1 .* not str"),
        ([ANSWER, {"from": "human", "value": "hi"}], "'user'.* assistant"),
        (
            [{"from": "narrator", "value": "x"}, ANSWER],
            r"'narrator'.*data\.roles={narrator: user}",
        ),
        (
            [{"value": "x"}, ANSWER],
            r"message 1 .* value .*data\.message_keys",
        ),
        ([{"from": ["x"], "value": "x"}, ANSWER], r"message 1 is \['x'\]"),
        ([{"from": "human"}, ANSWER], "'value' of message 1 is missing"),
        ([ANSWER | {"value": ""}], r"data\.allow_empty_response"),
    ],
)
def test_bad_conversations(open_rows, conversation, reason):
    with pytest.raises(LopeError, match=rf"line 2: .*{reason}"):
        open_rows(ROW_OF_FORMAT["sharegpt"], {"conversations": conversation})


def test_a_whole_conversation_is_no_completion(open_rows):
    """Its question would be learnt; as `messages` it is read."""
    ask = {"role": "user", "content": "q"}
    row = {
        "prompt": "q",
        "chosen": [ask, {"role": "assistant", "content": "a"}],
        "rejected": [ask, {"role": "assistant", "content": "b"}],
    }
    with pytest.raises(LopeError, match=r"'chosen'.*'user'.*data\.columns={messages: chosen}"):
        open_rows(row, columns={"completion": "chosen"})
    (example,) = open_rows(row, columns={"messages": "chosen"}).read()
    assert [turn.text for turn in example.turns] == ["q", "a"]


def test_empty_responses_of_the_other_formats(open_rows):
    for row, what in (({"prompt": "q", "completion": " "}, "completion"), ({"text": "\n"}, "text")):
        with pytest.raises(LopeError, match=rf"line 1: {what} is empty"):
            open_rows(row)
        assert open_rows(row, allow_empty_response=True)[0].turns[-1].role == "assistant"


def test_several_sources(tmp_path):
    sources = []
    for name, row in ROW_OF_FORMAT.items():
        path = write_rows(tmp_path / f"{name}.jsonl", [row] * (1 + len(name)))
        sources.append({"path": str(path), "format": name, "weight": len(name)})
    sources[1]["max_examples"] = 2
    source = open_source(DataConfig(sources=sources))
    assert source.sizes == (7, 2, 9, 7, 5)
    assert source.weights == (6, 8, 8, 6, 4)
    assert len(source) == 30
    assert [source[i].is_plain for i in (24, 25, 29)] == [False, True, True]
    first = open_source(DataConfig(sources=sources[:1]))
    assert first.fingerprint == open_source(DataConfig(path=sources[0]["path"])).fingerprint
