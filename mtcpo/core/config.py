"""Configuration: the strict base class of every section, TOML files, and overrides from the command line.

Each section's class lives in the package that it configures; this module holds only what they share.
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
    """Turn a UserError into the ValueError that pydantic expects of validators; also a decorator for them."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from None


def Checked(check: Callable[[Any], Any]) -> AfterValidator:  # noqa: N802, used like a type
    """Return a field annotation: `check` returns the value, possibly normalized, or raises a UserError.

    For example: `language: Annotated[str, Checked(check_language)]`.
    """

    def validate(value: Any) -> Any:
        with as_value_error():
            return check(value)

    return AfterValidator(validate)


class CommandLineText(str):
    """A string from the command line: a path in it is relative to the working directory, not to the recipe."""


def resolve_path(value: Any, info: ValidationInfo) -> Any:
    """Make a relative path of a recipe absolute; leave names of hub models and data sets alone."""
    if not isinstance(value, (str, Path)):
        return value
    from_recipe = info.context and not isinstance(value, CommandLineText)
    base = Path(info.context["base"]) if from_recipe and info.context else Path.cwd()
    path = Path(value).expanduser()
    # google/mt5-small is a name on the hub unless such a folder exists; ./google/mt5-small is always a path.
    explicit = str(value).startswith(("./", "../", "/", "~", ".\\", "..\\"))
    return str((base / path).resolve()) if explicit or (base / path).exists() else str(value)


PathOrName = Annotated[str, BeforeValidator(resolve_path)]
"""A file or directory (made absolute: relative to the recipe that names it), or a name on a hub."""

Section = TypeVar("Section", bound=Config)


def load_section(
    cls: type[Section], data: Mapping[str, Any], where: str, base: Path | None = None, allow_code: bool = False
) -> Section:
    """Validate `data` and return it as a section of type `cls`.

    where: the file or command, for messages. base: the recipe's folder, against which relative paths are resolved.
    allow_code: whether custom code may be named; only the command line can allow it.

    Raises:
        UserError: names the first problem with its key and value; for an unknown key, also the nearest valid one.
    """
    try:
        return cls.model_validate(data, context={"base": base or Path.cwd(), "allow_code": allow_code})
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(cls, error)}") from None


def first_problem(error: ValidationError) -> str:
    """Return "field: message" of the first problem: a file of another version has many at once."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


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
    # An error about a whole section names the keys itself; printing the section as "got" would bury it.
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):
        return f"{key}: {message}" if location else message
    return f"{key}: {message} (got {first['input']!r})" if location else message


def _keys_at(cls: type[Config], location: Iterable[Any]) -> list[str]:
    """Return the field names of the section at `location`, or [] if there is no section at that location."""
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
        UserError: no such file, not UTF-8, or invalid TOML (with the line).
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
    """Split `train.beta=0.2` into key path and value; a value that is not valid TOML is taken as a string."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text!r}: write it as KEY=VALUE, for example --set train.beta=0.2")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw  # a name or path: in TOML it would need quotes, and the shell would need them again
    return key.strip().split("."), _from_command_line(value)


def _from_command_line(value: Any) -> Any:
    if isinstance(value, str):
        return CommandLineText(value)
    if isinstance(value, dict):
        return {key: _from_command_line(item) for key, item in value.items()}
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
    """Return a section as TOML, defaults included; keys whose value is None are left out."""
    import tomli_w

    return tomli_w.dumps(json.loads(config.model_dump_json(exclude_none=True)), indent=2)
