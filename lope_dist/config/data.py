"""`data`: where the examples are and how they become tokens."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from lope_dist.config.base import Section


class RowFields(NamedTuple):
    """The fields of a format: every row has the needed ones and may have the others."""

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


FORMATS = {
    "alpaca": RowFields(("instruction", "output"), ("input", "system", "history", "tools")),
    "messages": RowFields(("messages",), ("system", "tools")),
    "sharegpt": RowFields(("conversations",), ("system", "tools")),
    "prompt": RowFields(("prompt", "completion"), ("system", "tools", "label")),
    "tokens": RowFields(("input_ids", "labels"), ("attention_mask",)),
    "text": RowFields(("text",)),
}
"""Value of `data.format` -> the fields of a row."""

MAPPED_FIELDS = ("weight",)
"""Fields of every format that are read only where `data.columns` names their column."""

Role = Literal["system", "user", "assistant", "tool", "function_call"]
MESSAGE_FIELDS = (
    "role",
    "content",
    "reasoning_content",
    "tool_calls",
    "tool_call_id",
    "name",
    "weight",
    "train",
)
"""What `data.message_keys` may give other names to."""


class _RowsConfig(Section):
    """Where rows are and what they look like."""

    path: str | tuple[str, ...] | None = None
    """A file, a glob of files, a folder, a hub data set as `owner/name`, or a list of them. Files:
    `.json`, `.jsonl`, `.ndjson`, `.csv`, `.tsv`, `.txt`, each also `.gz` or `.zst`; `.parquet`,
    `.arrow`. A folder is a copy of a hub data set, or was written by `save_to_disk`."""
    format: Literal["auto", "alpaca", "messages", "sharegpt", "prompt", "tokens", "text"] = "auto"
    """`alpaca`: instruction, input, output. `messages`: a list of {role, content}. `sharegpt`:
    conversations, a list of {from, value}. `prompt`: prompt, completion. `tokens`: input_ids,
    labels. `text`: text, all of it learnt and put into no template. `auto`: the one that fits the
    first row. `docs/data.md` has the optional fields."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The format's field: the column that holds it, for example {instruction: question}. Other
    columns are ignored. Every format has the field `weight`, which is read only if it is named
    here, as in {weight: quality}: a number from 0, how much the row's loss counts beside that of
    other rows. Only ratios of weights matter; a row of weight 0 is not learnt."""
    roles: dict[str, Role] = Field(default_factory=dict)
    """A role's name in the messages: what it stands for, for example {narrator: user}. Usual names
    need no entry."""
    message_keys: dict[str, str] = Field(default_factory=dict)
    """A message's field: the key that holds it, for example {role: speaker, content: text}."""
    split: str = "train"
    """Split of a hub data set or of a folder, or several of them (`train+test`). Files have no
    splits."""
    subset: str | None = None
    """Configuration of a hub data set or of a folder with a data set card, if there are several."""
    streaming: bool = False
    """Fetch a hub data set row by row, up to `max_examples`, instead of downloading all of it."""
    max_examples: int | None = Field(default=None, ge=1)
    """Use only this many first examples."""

    @field_validator("path", mode="before")
    @classmethod
    def _is_one_or_several(cls, value: Any) -> Any:
        paths = value if isinstance(value, (list, tuple)) else [value]
        if value is not None and not (paths and all(isinstance(p, str) and p for p in paths)):
            raise ValueError("it must be a string or a list of strings that is not empty")
        return value

    @field_validator("message_keys")
    @classmethod
    def _keys_are_of_a_message(cls, keys: dict[str, str]) -> dict[str, str]:
        if unknown := [key for key in keys if key not in MESSAGE_FIELDS]:
            raise ValueError(
                f"message_keys maps {', '.join(unknown)}; allowed are, as field: key, the fields "
                f"{', '.join(MESSAGE_FIELDS)}"
            )
        return keys

    @model_validator(mode="after")
    def _columns_are_of_the_format(self) -> _RowsConfig:
        names = list(FORMATS) if self.format == "auto" else [self.format]
        fields = {
            name: [*FORMATS[name].needed, *FORMATS[name].optional, *MAPPED_FIELDS] for name in names
        }
        if not any(
            set(self.columns) <= set(names_of_fields) for names_of_fields in fields.values()
        ):
            allowed = "; ".join(
                f"{name}: {', '.join(names_of_fields)}" for name, names_of_fields in fields.items()
            )
            raise ValueError(
                f"columns maps {', '.join(self.columns)}, which are not fields of one format; "
                f"allowed are, as field: column, the fields of {allowed}"
            )
        return self


class SourceConfig(_RowsConfig):
    """One of several sources of examples."""

    path: str | tuple[str, ...] = Field()
    """As `data.path`."""
    weight: float = Field(default=1.0, gt=0)
    """How often an epoch visits each example of this source. 2 is twice; 0.5 is half of the
    examples in one epoch and the other half in the next."""


class ValidationConfig(_RowsConfig):
    """Rows to validate on. Give `path` or `share`.

    Format, columns, roles, message keys and subset default to those of `data`.
    """

    share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the rows that is held out and not trained on. Seed and text decide for each row, so
    equal rows stay together, and adding rows moves no other row."""

    @model_validator(mode="after")
    def _is_a_path_or_a_share(self) -> ValidationConfig:
        if (self.path is None) == (self.share is None):
            given = "neither is" if self.path is None else "both are"
            raise ValueError(f"one of path and share must be given, and {given}")
        if "weight" in self.columns:
            raise ValueError(
                "columns maps weight, and the loss on rows for validation is not weighted; leave "
                "it out"
            )
        return self


_LOOKS = ("format", "columns", "roles", "message_keys")
"""What rows look like."""
_READ_ALIKE = (*_LOOKS, "subset")
"""What rows to validate on have in common with those to train on, where nothing else is said."""


def _unweighted(columns: dict[str, str]) -> dict[str, str]:
    """Return the columns without the weight, which rows that are not trained on do without."""
    return {field: column for field, column in columns.items() if field != "weight"}


class DataConfig(_RowsConfig):
    """The training set."""

    sources: tuple[SourceConfig, ...] = ()
    """Several sources, each with a format and a weight, instead of `data.path`."""
    validation: ValidationConfig | None = None
    """Rows that are never trained on; `train.evaluate` measures their loss."""
    max_bad_rows: float = Field(default=0.0, ge=0, lt=1)
    """Largest share of bad rows. They are listed, counted and left out. With 0 the first bad row
    ends the run before it starts."""
    allow_empty_response: bool = False
    """Keep rows with an empty response, of which Alpaca-52K has a few; only the end token is learnt
    from them. If off, such a row is bad."""
    template: Literal["alpaca", "chat"] = "alpaca"
    """Stanford Alpaca's prompt, or the tokenizer's own chat template."""
    template_arguments: dict[str, bool | int | float | str | None] = Field(default_factory=dict)
    """Arguments of the chat template, for example {enable_thinking: false}."""
    template_date: str | None = None
    """The date that the chat template sees as today, such as 2026-01-31. Default: the day on which
    the run or the corpus was started."""
    max_length: int = Field(default=1024, ge=8)
    """Most tokens of a row. Longer examples are cut at the end and counted."""
    packing: bool | Literal["auto"] = "auto"
    """Put several examples into one row; they do not attend to each other. `false`: one example,
    padded. `auto`: packed if the loaded model keeps examples apart, which is measured before the
    first step. `true` is an error if it does not. `run.yaml` has the choice."""
    shuffle: bool = True
    """Visit the examples in a random order that depends on seed and epoch."""
    corpus: str | None = None
    """Folder of a corpus that `lope corpus build` made for this run. Default: the run tokenizes on
    the fly."""
    workers: int = Field(default=0, ge=0)
    """Processes of each rank that prepare the batches of the next steps."""

    @model_validator(mode="before")
    @classmethod
    def _validation_is_read_alike(cls, tree: Any) -> Any:
        given = tree.get("validation") if isinstance(tree, dict) else None
        if not isinstance(given, dict) or "path" not in given:
            return tree
        alike = {key: tree[key] for key in _READ_ALIKE if key in tree}
        if isinstance(alike.get("columns"), dict):
            alike["columns"] = _unweighted(alike["columns"])
        return tree | {"validation": alike | given}

    @field_validator("template_date", mode="before")
    @classmethod
    def _is_a_date(cls, value: Any) -> Any:
        if value is None:
            return None
        try:
            return date.fromisoformat(str(value)).isoformat()
        except ValueError:
            raise ValueError(f"{value!r} is no date; write it as 2026-01-31") from None

    @model_validator(mode="after")
    def _a_share_is_read_with_the_rest(self) -> DataConfig:
        if self.validation is None or self.validation.share is None:
            return self
        for key, field in _RowsConfig.model_fields.items():
            if getattr(self.validation, key) != field.get_default(call_default_factory=True):
                raise ValueError(
                    f"validation.{key} has no effect with validation.share, whose rows are among "
                    "those of data; leave one of them out"
                )
        return self

    @model_validator(mode="after")
    def _arguments_reach_a_template(self) -> DataConfig:
        given = [key for key in ("template_arguments", "template_date") if getattr(self, key)]
        if given and self.template != "chat":
            raise ValueError(
                f"{given[0]} has no effect with template = 'alpaca'; set template=chat"
            )
        return self

    @model_validator(mode="after")
    def _is_one_source_or_several(self) -> DataConfig:
        if (self.path is None) == (not self.sources):
            given = "neither is" if self.path is None else "both are"
            raise ValueError(f"one of data.path and data.sources must be given, and {given}")
        for key, field in _RowsConfig.model_fields.items() if self.sources else ():
            if getattr(self, key) != field.get_default(call_default_factory=True):
                raise ValueError(f"data.{key} has no effect with data.sources; set it in each")
        return self

    def of_file(self, path: str) -> DataConfig:
        """Return what reads the rows of another file as these: all of them, none held out.

        Where several sources have a format each, that of the file is found out anew.
        """
        looks = {key: getattr(self, key) for key in _LOOKS} if self.path is not None else {}
        if looks:
            looks["columns"] = _unweighted(self.columns)
        source = SourceConfig(path=path, **looks).model_dump(exclude={"weight"})
        changes = {**source, "sources": (), "corpus": None, "validation": None}
        return DataConfig.model_validate(self.model_dump() | changes)

    @property
    def of_validation(self) -> DataConfig | None:
        """What reads the rows of ``validation.path``; None where there is none."""
        if self.validation is None or self.validation.path is None:
            return None
        settings = {name: getattr(self.validation, name) for name in _RowsConfig.model_fields}
        return self.model_copy(update=settings | {"sources": (), "validation": None})

    @property
    def has_weights(self) -> bool:
        """Whether rows of a source bring a weight of their own."""
        return any("weight" in source.columns for source in self.all_sources)

    @property
    def paths(self) -> tuple[str, ...]:
        """All that the sources name, in order."""
        given = (source.path for source in self.all_sources)
        return tuple(p for path in given for p in ((path,) if isinstance(path, str) else path))

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        """The sources, of which ``path`` makes one."""
        if self.path is None:
            return self.sources
        return (SourceConfig(**{name: getattr(self, name) for name in _RowsConfig.model_fields}),)
