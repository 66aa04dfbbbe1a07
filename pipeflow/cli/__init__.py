"""The command line: every command is one function over a store or an app that returns data."""
