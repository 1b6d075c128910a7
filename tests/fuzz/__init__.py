"""Mutated images, records, sweep files, tables, requests -> only documented outcomes, in bounded time and memory.

`make fuzz MINUTES=30`, or python -m tests.fuzz. An input is made from (kind, seed, number) alone, so that the same
numbers are the same inputs everywhere. A kind is a module with `prepare(folder)`, which gives a function that makes an
input and one that raises for whatever must not happen.
"""
