"""What an agent declares of itself: parameters and actions, as tables; its metadata is generated from them."""

from __future__ import annotations

from typing import NamedTuple, Tuple
from xml.sax.saxutils import escape, quoteattr

OCF_TYPES = {"time": "string"}  # OCF 1.1's schema knows boolean, integer, string and select alone


class Parameter(NamedTuple):
    """kind: string, integer, boolean, time or select (then `choices`). reloadable: a change needs no restart."""

    name: str
    kind: str
    shortdesc: str
    longdesc: str
    required: bool = False
    unique: bool = False
    default: str = ""
    reloadable: bool = True
    choices: Tuple[str, ...] = ()


class Action(NamedTuple):
    name: str
    timeout: str
    interval: str = ""
    depth: str = ""


class Agent(NamedTuple):
    name: str
    version: str
    shortdesc: str
    longdesc: str
    parameters: Tuple[Parameter, ...]
    actions: Tuple[Action, ...]


def metadata(agent: Agent) -> str:
    """The XML, in ASCII (anything else breaks `pcs resource describe`)."""
    lines = [
        '<?xml version="1.0"?>',
        '<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">',
        f"<resource-agent name={quoteattr(agent.name)} version={quoteattr(agent.version)}>",
        "<version>1.1</version>",
        *_texts(agent.longdesc, agent.shortdesc),
        "<parameters>",
    ]
    for parameter in agent.parameters:
        lines += _parameter(parameter)
    lines += ["</parameters>", "<actions>", *(_action(action) for action in agent.actions), "</actions>"]
    lines += ["</resource-agent>", ""]
    text = "\n".join(lines)
    text.encode("ascii")
    return text


def _texts(longdesc: str, shortdesc: str) -> Tuple[str, str]:
    return (
        f'<longdesc lang="en">\n{escape(longdesc.strip())}\n</longdesc>',
        f'<shortdesc lang="en">{escape(shortdesc)}</shortdesc>',
    )


def _parameter(parameter: Parameter) -> Tuple[str, ...]:
    wanted = (("required", parameter.required), ("unique", parameter.unique), ("reloadable", parameter.reloadable))
    flags = " ".join(f'{name}="{int(value)}"' for name, value in wanted)
    default = f" default={quoteattr(parameter.default)}" if parameter.default else ""
    content = f'<content type="{OCF_TYPES.get(parameter.kind, parameter.kind)}"{default}/>'
    if parameter.choices:
        options = "".join(f"<option value={quoteattr(choice)}/>" for choice in parameter.choices)
        content = f'<content type="select"{default}>{options}</content>'
    return (
        f"<parameter name={quoteattr(parameter.name)} {flags}>",
        *_texts(parameter.longdesc, parameter.shortdesc),
        content,
        "</parameter>",
    )


def _action(action: Action) -> str:
    interval = f' interval="{action.interval}"' if action.interval else ""
    depth = f' depth="{action.depth}"' if action.depth else ""
    return f'<action name="{action.name}" timeout="{action.timeout}"{interval}{depth}/>'
