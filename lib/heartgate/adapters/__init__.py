"""Everything that touches the world. Adapters import `heartgate.core` and nothing else of ours."""
