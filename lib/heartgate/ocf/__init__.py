"""OCF resource agents: parse, ask the daemon, map to exit codes."""
