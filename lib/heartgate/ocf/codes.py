"""Exit codes of OCF resource agents (API 1.1). 6 bans a resource from every node, so nothing local ever gives it."""

SUCCESS = 0
GENERIC = 1
ARGS = 2  # invalid on this host
UNIMPLEMENTED = 3
PERM = 4
INSTALLED = 5
CONFIGURED = 6
NOT_RUNNING = 7
DEGRADED = 190  # works, but a person should look
