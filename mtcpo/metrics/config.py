"""Metrics in a configuration: specs are checked, and their paths resolved, when the section is read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from mtcpo.core.config import as_value_error, resolve_path
from mtcpo.core.user_code import check_code_allowed
from mtcpo.metrics.registry import MBR, MetricObject, code_path, depends_on_set, metric_kind


@as_value_error()
def _check_spec(spec: Any, check_str: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
    """Return a spec whose checkpoint path is absolute; a Python object becomes a MetricObject."""
    if isinstance(spec, MetricObject):
        return spec  # the check for str would lose its object
    if not isinstance(spec, str) and callable(getattr(spec, "score_candidates", spec)):
        from mtcpo.metrics.user import metric_of

        made = MetricObject.of(*metric_of(spec))
        metric_kind(made)  # refuses the name of a built-in metric
        return made
    return str(check_str(_resolve(spec, info)))


def _resolve(spec: Any, info: ValidationInfo) -> Any:
    """Resolve a checkpoint's relative path like other paths of the section; refuse code unless allowed."""
    if not isinstance(spec, str) or ":" not in spec:
        return spec
    code = code_path(spec)
    if code is not None:
        check_code_allowed(code, bool(info.context and info.context.get("allow_code")))
        return spec
    name, _, rest = spec.partition(":")
    rest = type(spec)(rest)  # keep CommandLineText, whose paths are not relative to the recipe
    if depends_on_set(spec):
        return f"{MBR}:{_resolve(rest, info)}"
    return f"{name}:{resolve_path(rest, info)}" if rest else spec


MetricSpec = Annotated[str, WrapValidator(_check_spec)]
"""A metric in a configuration, see `mtcpo.metrics.registry`; from Python also a function or a `NeuralMetric`."""
