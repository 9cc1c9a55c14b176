"""What `fence_heartgate` declares. Plain tuples: this is read every few seconds, by a process that should end at once.

The option parsing is our own and not fencing.py's: fencing.py costs 50 ms and pexpect at every call, prints a screen of usage
for one wrong value, and its own `delay` would stand between Pacemaker's request and our answer.
"""

NAME = "fence_heartgate"
SHORTDESC = "Decides which node may shoot, by the data that the nodes hold"
LONGDESC = """fence_heartgate decides whether this node may fence the target, and when. It cuts no power: put it into a \
fencing level as the first device, before the agent that does. If it refuses, that one is not called.

A node whose replica is blocked, unproven or not up to date never shoots one that may have better data. Of two nodes with good \
data the first rank (by the policy and the priorities of replica-guard) shoots at once, the other one after rank_delay, by when \
it has been shot. If no daemon answers it decides by what the daemon has left on the disk.

rank_delay has to be longer than the power agent takes to cut the power. An answer may take delay + 3 x rank_delay: the \
timeout of off and reboot (pcmk_off_timeout, pcmk_reboot_timeout, else stonith-timeout, 60 s) must be longer than that."""

# name, short option, argument for the help ("" = a flag), type, default, required, description
PARAMETERS = (
    ("action", "o", "action", "string", "reboot", True, "Fencing action"),
    ("plug", "n", "node", "string", "", False, "Name of the node to fence, as Corosync has it"),
    ("port", "", "node", "string", "", False, "The same as plug"),
    ("devices", "", "names", "string", "", False,
     "Guarded devices to decide by, separated by blanks or commas (default: all that both nodes hold)"),
    ("rank_delay", "", "seconds", "second", "10", False,
     "How much longer the second rank waits than the first; longer than the power agent takes"),
    ("hold_while_synced", "", "0|1", "boolean", "0", False,
     "Refuse while the replication of all devices with the target is connected: hold still instead of fencing"),
    ("delay", "", "seconds", "second", "0", False, "Wait X seconds before fencing is started (rank_delay comes after that)"),
    ("quiet", "q", "", "boolean", "", False, "Say nothing on stderr but errors and refusals"),
    ("verbose", "v", "", "boolean", "", False, "Say on stderr what the answer is based on"),
    ("version", "V", "", "boolean", "", False, "Display version information and exit"),
    ("help", "h", "", "boolean", "", False, "Display help and exit"),
)  # fmt: skip
# Pacemaker gives the name that it has for the node; what fencing.py takes from everybody is nothing to complain of.
SILENT = ("nodename", "option", "method", "verbose_level", "debug_file", "debug", "separator", "plug_separator",
          "disable_timeout", "login_timeout", "power_timeout", "power_wait", "shell_timeout", "stonith_status_sleep",
          "retry_on")  # fmt: skip
ACTIONS = ("on", "off", "reboot", "status", "list", "monitor", "metadata", "manpage", "validate-all")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def _getopt(name: str, short: str, argument: str) -> str:
    long = "--" + name.replace("_", "-") + (f"=[{argument}]" if argument else "")
    return f"-{short}, {long}" if short else long


def metadata() -> str:
    """The XML of FenceAgentAPI, laid out as fencing.py does."""
    lines = [
        '<?xml version="1.0" ?>',
        f'<resource-agent name="{NAME}" shortdesc="{_escaped(SHORTDESC)}" >',
        f"<longdesc>{_escaped(LONGDESC)}</longdesc>",
        "<vendor-url></vendor-url>",
        "<parameters>",
    ]
    for name, short, argument, kind, default, required, text in PARAMETERS:
        shown = f' default="{_escaped(default)}"' if default else ""
        lines += [
            f'\t<parameter name="{name}" unique="0" required="{int(required)}">',
            f'\t\t<getopt mixed="{_escaped(_getopt(name, short, argument))}" />',
            f'\t\t<content type="{kind}"{shown} />',
            f'\t\t<shortdesc lang="en">{_escaped(text)}</shortdesc>',
            "\t</parameter>",
        ]
    lines += ["</parameters>", "<actions>"]
    lines += [f'\t<action name="{name}"' + (' automatic="0"/>' if name == "on" else " />") for name in ACTIONS]
    return "\n".join([*lines, "</actions>", "</resource-agent>", ""])


def usage() -> str:
    lines = [f"Usage: {NAME} [options]   (or the same as name=value lines on stdin)", "Options:"]
    for name, short, argument, _, default, _, text in PARAMETERS:
        shown = f" (default: {default})" if default else ""
        lines.append(f"   {_getopt(name, short, argument):34} {text}{shown}")
    return "\n".join([*lines, "Actions: " + " ".join(ACTIONS), ""])


def parameters_table() -> str:
    """For the documentation."""
    rows = ["| parameter | default | meaning |", "|---|---|---|"]
    for name, _, argument, _, default, _, text in PARAMETERS:
        if argument and name != "action":
            rows.append(f"| `{name}` | {default or '-'} | {text} |")
    return "\n".join(rows) + "\n"
