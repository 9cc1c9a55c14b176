"""What is checked before a cluster is trusted: pure rules over facts. Imports nothing of ours but itself."""
