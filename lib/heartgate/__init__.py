"""heartgate: never two diverging writers on replicated storage, for Pacemaker/Corosync clusters."""

__version__ = "0.1.0"
