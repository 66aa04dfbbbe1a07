"""Where a stream's objects go: names, local files, memory."""
