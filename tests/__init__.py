"""The tests of petl; `support` holds what several of them share."""
