"""The systems of `brokers.py`, each in a process of its own with a server of its own, behind one face."""
