"""The command `heartgate`."""
