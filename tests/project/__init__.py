"""What holds for the whole project: its files, imports, documents and packaging."""
