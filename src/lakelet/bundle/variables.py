"""Resolves `${…}` in the values of a bundle, as far as a machine without a workspace can."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lakelet.bundle import fields
from lakelet.bundle.document import Bundle, LocatedList, LocatedMap, Place, expect_fields, mapping
from lakelet.errors import SpecError, did_you_mean

_REFERENCE = re.compile(r"\$\{([A-Za-z][\w.\-]*(?:\[\d+\][\w.\-]*)*)\}")


@dataclass(slots=True, kw_only=True)
class Variables:
    """The variables of one bundle.

    A variable's value is what was given, else the environment variable `BUNDLE_VAR_<name>`, else its default, for which a
    target's value counts.

    Attributes:
        given: from the command line.
    """

    bundle: Bundle
    given: Mapping[str, str] = field(default_factory=dict)
    _resolving: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        declared = self._declared
        for name in self.given:
            if name not in declared:
                raise self._unresolved(f"var.{name}", None, near=did_you_mean(name, declared))

    def resolved(self, value: Any, place: Place) -> Any:
        """Return a value without references; text that is one reference takes the type of what it refers to.

        Raises:
            SpecError: `BUNDLE_VARIABLE_UNRESOLVED`.
        """
        if isinstance(value, LocatedMap):
            return LocatedMap(
                {key: self.resolved(item, value.places[key]) for key, item in value.items()}, value.places
            )
        if isinstance(value, LocatedList):
            items = [self.resolved(item, at) for item, at in zip(value, value.places, strict=True)]
            return LocatedList(items, value.places)
        if not isinstance(value, str):
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole is not None:
            return self._value(whole[1], place)
        return _REFERENCE.sub(lambda match: as_text(self._value(match[1], place)), value)

    def _value(self, path: str, place: Place) -> Any:
        if path in self._resolving:
            raise self._unresolved(path, place, cause=" → ".join([*self._resolving, path]))
        self._resolving.append(path)
        try:
            return self.resolved(self._looked_up(path, place), place)
        finally:
            self._resolving.pop()

    def _looked_up(self, path: str, place: Place) -> Any:
        root, *steps = re.findall(r"[^.\[\]]+", path)
        if root == "var" and steps:
            return self._followed(self._variable(steps[0], path, place), steps[1:], path, place)
        if path in ("bundle.target", "bundle.environment"):
            return self.bundle.target
        if root == "workspace":
            known = mapping(self.bundle.fields, "workspace", root=self.bundle.root)
            own = {name: value for name, value in known.items() if name in steps[:1]}
            if not own and path in _WORKSPACE:
                return _WORKSPACE[path](self.bundle)
        if root in ("bundle", "workspace", "resources", "variables"):
            return self._followed(self.bundle.fields.get(root), steps, path, place)
        raise self._unresolved(path, place, cause=f"`{root}` has values on Databricks only")

    def _followed(self, value: Any, steps: list[str], path: str, place: Place) -> Any:
        for step in steps:
            if isinstance(value, LocatedMap) and step in value:
                value = value[step]
            elif isinstance(value, LocatedList) and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            else:
                near = did_you_mean(step, value) if isinstance(value, LocatedMap) else None
                raise self._unresolved(path, place, near=near, cause=f"`{step}` is not in the bundle")
        return value

    @property
    def _declared(self) -> LocatedMap:
        return mapping(self.bundle.fields, "variables", root=self.bundle.root)

    def _variable(self, name: str, path: str, place: Place) -> Any:
        declared = self._declared
        if name not in declared:
            raise self._unresolved(path, place, near=did_you_mean(name, declared))
        declaration = mapping(declared, name, root=self.bundle.root)
        expect_fields(declaration, fields.VARIABLE, what="a variable", root=self.bundle.root)
        if name in self.given:
            return self.given[name]
        from_environment = os.environ.get(fields.VALUE_VARIABLE + name)
        if from_environment is not None:
            return from_environment
        if "default" in declaration:
            return declaration["default"]
        cause = "it is looked up in a workspace" if "lookup" in declaration else "it has no default"
        raise self._unresolved(path, place, cause=cause)

    def _unresolved(
        self, path: str, place: Place | None, *, near: str | None = None, cause: str | None = None
    ) -> SpecError:
        name = path.removeprefix("var.").split(".")[0]
        if near:
            hint = f"did you mean `{near}`?"
        elif path.startswith("var.") and name in self._declared:
            hint = f"give `--var {name}=VALUE`, or set the environment variable `{fields.VALUE_VARIABLE}{name}`"
        else:
            hint = "write the value itself, or a variable with a default in its place"
        return SpecError(
            "BUNDLE_VARIABLE_UNRESOLVED",
            f"`${{{path}}}` has no value here",
            origin=self.bundle.origin(place),
            cause=cause,
            hint=hint,
        )


_WORKSPACE = {
    "workspace.current_user.userName": lambda bundle: getpass.getuser(),
    "workspace.current_user.short_name": lambda bundle: re.sub(r"\W", "_", getpass.getuser()),
    "workspace.root_path": lambda bundle: str(bundle.root),
    "workspace.file_path": lambda bundle: str(bundle.root),
}
"""What a workspace would answer; a bundle's files lie where they are written, not where they would be deployed."""


def as_text(value: Any) -> str:
    """Return a value as Databricks writes it into text."""
    return str(value).lower() if isinstance(value, bool) else str(value)
