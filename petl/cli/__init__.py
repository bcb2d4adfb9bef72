"""The command line: words into values, values into calls of the library, results into text. It computes nothing itself; the
trials of ``petl demo`` alone are its own.
"""
