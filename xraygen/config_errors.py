"""What is wrong in a configuration, said under the names that a user has written."""

from collections.abc import Collection, Sequence

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, root: type[BaseModel], following: Collection[str]) -> str:
    """One sentence per wrong key, with what was expected there.

    Args:
        error: What validation found.
        root: The model that was validated, whose fields are sections.
        following: Keys of settings that only repeat what `data` says.
    """
    sentences: dict[str, str] = {}
    for problem in error.errors():
        path, section = _setting(problem["loc"], root)
        key, what = ".".join(path), problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            sentence = f"{key} is not a setting; known here: {', '.join(section.model_fields)}"
        elif isinstance(problem["input"], dict):
            sentence = f"{key}: {what}" if key else what
        else:
            sentence = f"{key}: {what} (given: {problem['input']!r})"
        sentences.setdefault(key, sentence)
    if any(key.startswith("data.") for key in sentences):  # what only follows data has been said there
        sentences = {key: text for key, text in sentences.items() if key not in following} or sentences
    return "; ".join(sentences.values()) + "."


def _setting(location: Sequence[int | str], root: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """The path of the setting that an error is about, without pydantic's inner steps, and the section it is in."""
    section, path = root, list[str]()
    for part in location:
        path.append(str(part))
        field = section.model_fields.get(str(part))
        if (
            field is None
            or not isinstance(field.annotation, type)
            or not issubclass(field.annotation, BaseModel)
        ):
            break
        section = field.annotation
    return path, section
