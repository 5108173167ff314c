"""What of the rows reaches no token is named."""

from support.row_files import write_rows

from lope_dist.config.data import DataConfig
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.tokens.chat import ChatTemplate
from lope_dist.corpus.tokens.prompts import Form

TWO_ROLES = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[U]' + m.content | trim }}"
    "{% elif m.role == 'assistant' %}{{ '[A]' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[A]{% endif %}"
)


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def test_roles_that_the_template_does_not_show_are_named_once(tmp_path, tokenizer, monkeypatch):
    def unused(*rows):
        path = write_rows(tmp_path / "x.jsonl", rows)
        form = Form(tokenizer, "chat", 999)
        return open_source(DataConfig(path=str(path)), form).account.unused

    brief = turn("system", "Be brief.")
    four = turn("tool", "4 degrees")
    behind = {
        "messages": [
            turn("user", "q"),
            turn("assistant", "a"),
            four,
            turn("assistant", "b", weight=0),
        ]
    }
    rows = [
        {
            "messages": [
                brief,
                turn("user", "q"),
                turn("assistant", "a"),
                four,
                turn("assistant", "b"),
            ]
        }
    ] * 20
    assert unused(behind, *rows) == []
    tokenizer.chat_template = TWO_ROLES
    asked, shows = [], ChatTemplate.shows

    def counted(self, example, index):
        asked.append(example.turns[index].role)
        return shows(self, example, index)

    monkeypatch.setattr(ChatTemplate, "shows", counted)
    (sentence,) = unused(behind, *rows)
    assert sentence.endswith(": turns of the role system, turns of the role tool")
    assert sorted(asked) == ["system", "tool", "user"]
    assert unused(behind) == []  # nothing is learnt behind it
