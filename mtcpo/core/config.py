"""Configuration: the strict base class of every section, TOML files, and overrides from the command line.

Each section's class is in the package that it configures; here is only what they share.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo

from mtcpo.core.errors import UserError, nearest


class Config(BaseModel):
    """A section of a recipe: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@contextmanager
def as_value_error() -> Iterator[None]:
    """Turn a UserError into the ValueError that pydantic expects of a validator. Also a decorator of validators."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from None


def Checked(check: Callable[[Any], Any]) -> AfterValidator:  # noqa: N802, it reads like a type where it is used
    """Return the annotation of a field whose value `check` returns, perhaps changed, or refuses with a UserError.

    For example: `language: Annotated[str, Checked(check_language)]`.
    """

    def validate(value: Any) -> Any:
        with as_value_error():
            return check(value)

    return AfterValidator(validate)


class CommandLineText(str):
    """A string from the command line: as a path, it is relative to the working directory and not to the recipe."""


def resolve_path(value: Any, info: ValidationInfo) -> Any:
    """Make a relative path of a recipe absolute; leave names of hub models and data sets alone."""
    if not isinstance(value, (str, Path)):
        return value
    from_recipe = info.context and not isinstance(value, CommandLineText)
    base = Path(info.context["base"]) if from_recipe and info.context else Path.cwd()
    path = Path(value).expanduser()
    # google/mt5-small is a name on the hub, unless there is such a folder; ./google/mt5-small is a path in any case.
    explicit = str(value).startswith(("./", "../", "/", "~", ".\\", "..\\"))
    return str((base / path).resolve()) if explicit or (base / path).exists() else str(value)


PathOrName = Annotated[str, BeforeValidator(resolve_path)]
"""A file or directory (made absolute: relative to the recipe that names it), or a name on a hub."""

Section = TypeVar("Section", bound=Config)


def load_section(
    cls: type[Section], data: Mapping[str, Any], where: str, base: Path | None = None, allow_code: bool = False
) -> Section:
    """Return the section that `data` describes.

    where: the file or command, for messages. base: the folder of the recipe, which relative paths start from.
    allow_code: whether custom Python code may be named; only the command line can say so.

    Raises:
        UserError: the first problem, with its key, its value, and the nearest valid key for an unknown one.
    """
    try:
        return cls.model_validate(data, context={"base": base or Path.cwd(), "allow_code": allow_code})
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(cls, error)}") from None


def _explain(cls: type[Config], error: ValidationError) -> str:
    first = error.errors()[0]
    location = list(first["loc"])
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        keys = _keys_at(cls, location[:-1])
        listed = f"; its keys are {', '.join(keys)}" if keys else ""
        return f"unknown key {key!r}{nearest(str(location[-1]), keys)}{listed}"
    if first["type"] == "missing":
        return f"{key!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    # An error of a whole section names its keys; to print the section as "got" would bury it.
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):
        return f"{key}: {message}" if location else message
    return f"{key}: {message} (got {first['input']!r})" if location else message


def _keys_at(cls: type[Config], location: Iterable[Any]) -> list[str]:
    """Return the field names of the section at `location`, or [] where the path leaves the known sections."""
    current: Any = cls
    for part in location:
        if isinstance(part, int):
            continue
        section = _section_of(current.model_fields[part].annotation) if part in current.model_fields else None
        if section is None:
            return []
        current = section
    return sorted(current.model_fields)


def _section_of(annotation: Any) -> type[Config] | None:
    """Find the Config class inside an annotation such as `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        section = _section_of(argument)
        if section is not None:
            return section
    return None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: no such file, not UTF-8, or a mistake in it, with its line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from None


def parse_override(text: str) -> tuple[list[str], Any]:
    """Split `train.beta=0.2` into its key path and its value: a TOML value if it is one, else the text itself."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text!r}: write it as KEY=VALUE, for example --set train.beta=0.2")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw  # a name or path, which nobody wants to quote twice in a shell
    return key.strip().split("."), _from_command_line(value)


def _from_command_line(value: Any) -> Any:
    if isinstance(value, str):
        return CommandLineText(value)
    return [_from_command_line(item) for item in value] if isinstance(value, list) else value


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Set each `KEY=VALUE` in `data`, creating tables where they are missing, and return `data`."""
    for text in overrides:
        keys, value = parse_override(text)
        table = data
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise UserError(f"--set {text!r}: {key!r} is a value, not a table")
        table[keys[-1]] = value
    return data


def to_toml(config: Config) -> str:
    """Return a section as TOML, with defaults, without the keys that are unset."""
    import tomli_w

    return tomli_w.dumps(json.loads(config.model_dump_json(exclude_none=True)), indent=2)
