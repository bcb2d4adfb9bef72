"""What petl costs and where it works, measured: each room and each script says in its first lines how it is run."""
