"""The test kit: the real engine on a memory store with exact virtual time."""
