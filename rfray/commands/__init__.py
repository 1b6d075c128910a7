"""The arguments of a command -> what it does, step by step, and what it prints."""
