"""The verbs as commands: the library's functions, with their docstrings, and the few words that only a shell needs."""
