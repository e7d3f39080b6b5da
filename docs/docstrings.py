"""What Griffe, which reads the sources for the reference, cannot know of them: its extension, see `mkdocs.yml`."""

import ast
import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

from griffe import (
    Attribute,
    Class,
    Docstring,
    ExprCall,
    Extension,
    Function,
    Module,
    Object,
    Parameter,
    ParameterKind,
    Parameters,
)


_REFERENCE = re.compile(r"\[`([\w.]+)`\]")
_ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)
# Transformers makes dataclasses of configurations; typed dictionaries are arguments, too.
_FIELDS_ARE_ARGUMENTS = ("Config", "Kwargs")


def list_entries() -> dict[str, str]:
    """Returns the names that have an entry in the reference, and where they are imported from: name -> path."""
    pages = Path(__file__).parent.glob("reference/*.md")
    paths = [path for page in pages for path in _ENTRY.findall(page.read_text(encoding="utf-8"))]
    paths.sort(key=lambda path: path.startswith("eomt_transformers."))  # of two `pipeline`, the one for everybody
    return {path.rsplit(".", 1)[-1]: path for path in paths}


class Docstrings(Extension):
    """
    Completes what was read of a package.

    - [`name`], as Transformers writes it, becomes a link if the name has an entry, and plain code otherwise.
    - Fields of a configuration become arguments, which its docstring describes; those of training arguments bring
      their descriptions along.
    - The methods that `TaskMethod` makes become methods.
    """

    def __init__(self) -> None:
        self.entries = list_entries()

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        """Completes a package."""
        for obj in walk(pkg):
            if isinstance(obj, Class) and obj.name.endswith(_FIELDS_ARE_ARGUMENTS):
                obj.set_member("__init__", make_init(obj))
            if isinstance(obj, Class) and obj.docstring is not None:
                describe_arguments(obj)
            if isinstance(obj, Attribute) and str(obj.value).startswith("TaskMethod("):
                obj.parent.set_member(obj.name, make_task_method(obj))
        for obj in walk(pkg):
            if obj.docstring is not None:
                obj.docstring.value = _REFERENCE.sub(self._link, obj.docstring.value)

    def _link(self, match: re.Match) -> str:
        name, *rest = match[1].split(".")
        path = self.entries.get(name)
        return f"`{match[1]}`" if path is None else f"[`{match[1]}`][{'.'.join([path, *rest])}]"


def walk(obj: Object) -> Iterator[Object]:
    """Yields an object and those defined in it; imported ones are yielded where they are defined."""
    yield obj
    for member in list(obj.members.values()):
        if not member.is_alias:
            yield from walk(member)


def make_init(config: Class) -> Function:
    """Returns the constructor that a dataclass of the fields of a configuration has."""
    fields = (
        field
        for field in config.all_members.values()
        if "instance-attribute" in field.labels and field.annotation is not None
    )
    parameters = [
        Parameter(field.name, annotation=field.annotation, kind=ParameterKind.keyword_only, default=field.value)
        for field in fields
    ]
    return Function("__init__", parameters=Parameters(*parameters), parent=config)


def describe_arguments(training: Class) -> None:
    """Adds the arguments to the docstring of a class whose fields are calls `argument(default, help)`."""
    lines = []
    for field in training.members.values():
        value = field.value if isinstance(field, Attribute) else None
        if isinstance(value, ExprCall) and str(value.function) == "argument":
            field.value, text = value.arguments[:2]
            lines.append(f"    {field.name}: {''.join(ast.literal_eval(str(text)))}")
    if lines:
        description, *sections = training.docstring.value.partition("Raises:")
        training.docstring.value = "\n".join([description + "Args:", *lines, "", "".join(sections)])


def make_task_method(attribute: Attribute) -> Function:
    """Returns the post-processing method that a `TaskMethod` is in a processor: with the settings of its function."""
    call = attribute.value
    assert isinstance(call, ExprCall)
    segment = attribute.module.members[str(call.arguments[1])]
    settings = [parameter.name for parameter in segment.parameters if parameter.kind is ParameterKind.keyword_only]
    forms = [name for name in settings if name.startswith("return_")]
    stored = [name for name in settings if name not in forms]
    names = ["target_sizes", *stored, "size", *forms]
    dispatch = attribute.parent.members["post_process"]
    kinds = {parameter.name: parameter.annotation for parameter in (*segment.parameters, *dispatch.parameters)}
    kind = ParameterKind.positional_or_keyword
    parameters = [Parameter("self", kind=kind), Parameter("outputs", annotation=kinds["outputs"], kind=kind)]
    parameters += [Parameter(name, annotation=kinds.get(name, "Any"), kind=kind, default="None") for name in names]
    text = ast.literal_eval(str(attribute.module.members["TaskMethod"].members["DOCUMENTATION"].value))
    lines = (f"{name}: the stored setting by default." for name in settings)
    text = re.sub("{settings}: .*", ("\n" + 8 * " ").join(lines), text).replace("`{segment}`", f"[`{segment.name}`]")
    method = Function(
        attribute.name, parameters=Parameters(*parameters), returns=dispatch.returns, parent=attribute.parent
    )
    like = segment.docstring
    method.docstring = Docstring(cleandoc(text), parent=method, parser=like.parser, parser_options=like.parser_options)
    return method
