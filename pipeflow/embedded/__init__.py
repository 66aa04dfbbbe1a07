"""The embedded broker: state machines in memory, remembered by a journal."""
