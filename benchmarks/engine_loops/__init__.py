"""The loops that ``engine.py`` compares: a file for each engine, with one function ``train(case, variant)``.

A file imports its engine at its top and nothing of another's, and is itself imported only in the process that
measures it.
"""
