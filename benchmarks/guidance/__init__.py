"""What the guidance of petl is worth, measured: one file for each verb."""
